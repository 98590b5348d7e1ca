// Downloads that outlive the page. A model's files are stored in the origin private file system, each with a list of
// the SHA-256 sums of its blocks. Stored files are verified before use, and an interrupted download continues where it
// stopped.

import { KingletError } from './errors.js';
import { TEMPLATES } from './protocol.js';
import { INDEX, OPTIONAL, REQUIRED, WEIGHTS, blobReader, isTemplate, shardsOf, urlReader } from './sources.js';
import type { ModelFiles, Ranged } from './sources.js';

/** Size of a block with its own sum, in bytes. */
const BLOCK = 1 << 20;
/** Blocks between two writes of the list. */
const LIST_EVERY = 16;
/** How often an interrupted download is retried. */
const RETRIES = 3;

/** Metadata of a stored file. */
interface Listing {
  url: string;
  /** The server's name of this version; may be empty. */
  version: string;
  bytes: number;
  /** Sums of the whole blocks from the start, and of the last block if the file is complete. */
  sums: string[];
  done: boolean;
}

/** Receives progress and notices of a download. */
export interface Watcher {
  signal: AbortSignal;
  progress(phase: 'download' | 'verify', file: string, loaded: number, total: number | undefined): void;
  notice(text: string): void;
}

/** `auto`: stored if there is room, otherwise read without storing; `require`: an error instead; `off`: nothing is stored. */
export type CacheMode = 'auto' | 'require' | 'off';

/** The folder's address, to which file names can be appended. */
export function folderOf(url: string): string {
  const parsed = new URL(url, self.location.href);
  // A model's page on the hub is not the address of its files.
  const page = /^\/([^/]+)\/([^/]+)(?:\/tree\/([^/]+))?\/?$/.exec(parsed.pathname);
  if (parsed.hostname === 'huggingface.co' && page) {
    return `https://huggingface.co/${page[1]}/${page[2]}/resolve/${page[3] ?? 'main'}/`;
  }
  parsed.hash = '';
  parsed.pathname = parsed.pathname.replace(/(config\.json|model\.safetensors(\.index\.json)?)$/, '');
  if (!parsed.pathname.endsWith('/')) parsed.pathname += '/';
  return parsed.href;
}

/** The files of the model in the folder `url`. */
export async function fromUrl(url: string, mode: CacheMode, watcher: Watcher): Promise<ModelFiles> {
  const base = folderOf(url);
  const folder = mode === 'off' ? undefined : await openFolder(base, mode, watcher);
  const work = () => download(base, folder, mode, watcher);
  // If two tabs load a model, the second waits and then finds it stored.
  if (!folder || !navigator.locks) return work();
  return await navigator.locks.request(`kinglet:${base}`, { signal: watcher.signal }, work);
}

async function download(
  base: string, folder: FileSystemDirectoryHandle | undefined, mode: CacheMode, watcher: Watcher,
): Promise<ModelFiles> {
  const whole: ModelFiles['whole'] = [];
  const get = async (names: string[]) => await Promise.all(names.map(async (name) => ({
    name, contents: await smallFile(base, name, folder, watcher),
  })));
  const small = await Promise.all([
    get([...REQUIRED, ...OPTIONAL]),
    templatesOf(base, folder, watcher).then(get),
  ]);
  for (const { name, contents } of small.flat()) {
    if (contents) whole.push({ name, contents });
    else if (REQUIRED.includes(name)) {
      throw new KingletError('not-found', `${address(base, name)} does not exist: is this the address of a model's folder?`);
    }
  }
  const single = await largeFile(base, WEIGHTS, folder, mode, watcher);
  if (single) return { whole, ranged: [single] };
  const index = await smallFile(base, INDEX, folder, watcher);
  if (!index) throw new KingletError('not-found', `neither ${WEIGHTS} nor ${INDEX} is in ${base}`);
  whole.push({ name: INDEX, contents: index });
  const ranged: Ranged[] = [];
  for (const name of shardsOf(index)) {
    const shard = await largeFile(base, name, folder, mode, watcher);
    if (!shard) throw new KingletError('not-found', `${address(base, name)}, which ${INDEX} names, does not exist`);
    ranged.push(shard);
  }
  return { whole, ranged };
}

function address(base: string, name: string): string {
  const url = new URL(base);
  url.pathname += name.split('/').map(encodeURIComponent).join('/');
  return url.href;
}

/** A response, or `undefined` if the file does not exist. */
async function request(url: string, init: RequestInit, signal: AbortSignal): Promise<Response | undefined> {
  let response: Response;
  try {
    response = await fetch(url, { ...init, signal });
  } catch (cause) {
    signal.throwIfAborted();
    throw new KingletError('network', `${url} could not be reached`, { cause });
  }
  if (response.status === 404 || response.status === 410) return undefined;
  if (!response.ok && response.status !== 416) throw new KingletError('network', `${url}: HTTP ${response.status} ${response.statusText}`);
  return response;
}

/** Names of additional templates, if the server lists its files, as the hub does. */
async function templatesOf(base: string, folder: FileSystemDirectoryHandle | undefined, watcher: Watcher): Promise<string[]> {
  const { hostname, pathname } = new URL(base);
  const [, model, revision] = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/$/.exec(pathname) ?? [];
  if (hostname !== 'huggingface.co' || !model || !revision) return [];
  try {
    const listing = await smallFile(`https://huggingface.co/api/models/${model}/tree/${revision}/`, TEMPLATES, folder, watcher);
    if (!listing) return [];
    const entries = JSON.parse(new TextDecoder().decode(listing)) as { path?: unknown }[];
    return entries.map(({ path }) => path).filter((path) => typeof path === 'string').filter(isTemplate);
  } catch (error) {
    watcher.signal.throwIfAborted();
    // Most models have none, and those that have some also have the usual one.
    watcher.notice(`Additional chat templates could not be listed: ${error instanceof Error ? error.message : error}.`);
    return [];
  }
}

/** A small file: from the server if it can be reached, otherwise the stored one. `undefined` if it does not exist. */
async function smallFile(
  base: string, name: string, folder: FileSystemDirectoryHandle | undefined, watcher: Watcher,
): Promise<Uint8Array | undefined> {
  const stored = name.replaceAll('/', ' ');
  // Remember that the server has none, for when it can't be reached.
  const none = `${stored}.none`;
  let contents: Uint8Array | undefined;
  try {
    const response = await request(address(base, name), { cache: 'no-cache' }, watcher.signal);
    contents = response && new Uint8Array(await response.arrayBuffer());
  } catch (error) {
    watcher.signal.throwIfAborted();
    const kept = folder && await readWhole(folder, stored);
    if (kept) return kept;
    if (folder && await readWhole(folder, none)) return undefined;
    throw error instanceof KingletError ? error : new KingletError('network', `${address(base, name)} broke off`, { cause: error });
  }
  if (folder && !contents) return await keepNone(folder, stored);
  try {
    if (folder && contents) {
      await writeWhole(folder, stored, contents);
      await folder.removeEntry(none).catch(() => undefined);
    }
  } catch {
    // Failing to store it is harmless: it is fetched again.
  }
  return contents;
}

/** A file of weights: the stored part, completed from the server. */
async function largeFile(
  base: string, name: string, folder: FileSystemDirectoryHandle | undefined, mode: CacheMode, watcher: Watcher,
): Promise<Ranged | undefined> {
  const url = address(base, name);
  if (folder) {
    try {
      return await storedFile(url, name, folder, watcher);
    } catch (error) {
      watcher.signal.throwIfAborted();
      const failure = storageFailure(error, name);
      if (!failure) throw error;
      if (mode === 'require') throw failure;
      watcher.notice(`${failure.message}. The model is used without storing it.`);
      // A part without room for the rest is useless.
      await folder.removeEntry(name).catch(() => undefined);
      await folder.removeEntry(`${name}.sums`).catch(() => undefined);
    }
  }
  return unstoredFile(url, name, watcher);
}

/** Converts an error of the storage; `undefined` for other errors. */
function storageFailure(error: unknown, name: string): KingletError | undefined {
  if (error instanceof KingletError) return error.code === 'quota' || error.code === 'storage' ? error : undefined;
  if (!(error instanceof DOMException)) return undefined;
  if (error.name === 'QuotaExceededError') {
    return new KingletError('quota', `the browser's storage has no room for ${name}`, { cause: error });
  }
  return new KingletError('storage', `the browser's storage can't be used for ${name}: ${error.message}`, { cause: error });
}

/** A server's metadata of a file. */
interface Facts {
  version: string;
  bytes: number | undefined;
  ranges: boolean;
}

function factsOf(response: Response): Facts {
  const encoded = response.headers.get('content-encoding') !== null;
  const part = /^bytes \d+-\d+\/(\d+)$/.exec(response.headers.get('content-range') ?? '');
  const length = part ? part[1] : response.headers.get('content-length');
  const bytes = length && !encoded ? Number(length) : undefined;
  return {
    version: response.headers.get('etag') ?? response.headers.get('last-modified') ?? '',
    bytes,
    ranges: response.status === 206 || response.headers.get('accept-ranges') === 'bytes',
  };
}

/** Reads a file without storing it: in ranges if the server supports them, otherwise into the browser's storage for large objects. */
async function unstoredFile(url: string, name: string, watcher: Watcher): Promise<Ranged | undefined> {
  const head = await request(url, { headers: { Range: 'bytes=0-0' }, cache: 'no-store' }, watcher.signal);
  if (!head) return undefined;
  const { bytes } = factsOf(head);
  if (head.status === 206 && bytes !== undefined) {
    await head.arrayBuffer();
    return urlReader(name, url, bytes);
  }
  const parts: Blob[] = [];
  let loaded = 0;
  for await (const chunk of chunksOf(head, url, watcher.signal)) {
    parts.push(new Blob([chunk]));
    loaded += chunk.length;
    watcher.progress('download', name, loaded, bytes);
  }
  if (bytes !== undefined && loaded !== bytes) throw brokenOff(url, loaded, bytes);
  return blobReader(name, new Blob(parts));
}

function brokenOff(url: string, loaded: number, bytes: number, cause?: unknown): KingletError {
  return new KingletError('network', `${url} broke off after ${loaded} of ${bytes} bytes: load it again to continue from there`, { cause });
}

async function* chunksOf(response: Response, url: string, signal: AbortSignal): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const reader = response.body?.getReader();
  if (!reader) return;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (cause) {
    signal.throwIfAborted();
    // Errors of the consumer are not network errors, and are thrown elsewhere.
    throw new KingletError('network', `${url} broke off`, { cause });
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

/** Ensures that a file is in the store. */
async function storedFile(
  url: string, name: string, folder: FileSystemDirectoryHandle, watcher: Watcher,
): Promise<Ranged | undefined> {
  let listing = await readListing(folder, name, url);
  if (listing) {
    const current = await stillCurrent(listing, url, watcher);
    if (current === 'gone') return await keepNone(folder, name);
    if (current === 'changed') listing = undefined;
  } else if (await readWhole(folder, `${name}.none`)) {
    // If the server can't be reached, assume that nothing has changed.
    const head = await request(url, { method: 'HEAD', cache: 'no-cache' }, watcher.signal).catch(() => undefined);
    watcher.signal.throwIfAborted();
    if (!head) return undefined;
  }
  if (listing) {
    const good = await verified(folder, name, listing, watcher);
    if (listing.done && good === listing.sums.length) return await openStored(folder, name);
    if (listing.done) watcher.notice(`${name} was damaged in the browser's storage: the broken part is loaded again.`);
    listing.sums.length = good;
    listing.done = false;
  }
  const file = await folder.getFileHandle(name, { create: true });
  const access = await file.createSyncAccessHandle();
  try {
    for (let attempt = 0; ; attempt++) {
      try {
        listing = await fill(url, name, folder, access, listing, watcher);
        break;
      } catch (error) {
        watcher.signal.throwIfAborted();
        const again = error instanceof KingletError && error.code === 'network' && attempt < RETRIES;
        if (!again) throw error;
        listing = await readListing(folder, name, url);
        await new Promise((resolve) => setTimeout(resolve, 250 << attempt));
      }
    }
  } finally {
    access.close();
  }
  if (!listing) return await keepNone(folder, name);
  await folder.removeEntry(`${name}.none`).catch(() => undefined);
  return await openStored(folder, name);
}

/** Stores that the server does not have a file, for when it can't be reached. */
async function keepNone(folder: FileSystemDirectoryHandle, name: string): Promise<undefined> {
  await writeWhole(folder, `${name}.none`, new Uint8Array()).catch(() => undefined);
  for (const stale of [name, `${name}.sums`]) await folder.removeEntry(stale).catch(() => undefined);
}

async function openStored(folder: FileSystemDirectoryHandle, name: string): Promise<Ranged> {
  return blobReader(name, await (await folder.getFileHandle(name)).getFile());
}

/** Whether the server still has the stored version. Without a server, assume so. */
async function stillCurrent(listing: Listing, url: string, watcher: Watcher): Promise<'current' | 'changed' | 'gone'> {
  try {
    const head = await request(url, { method: 'HEAD', cache: 'no-cache' }, watcher.signal);
    if (!head) return 'gone';
    const { version, bytes } = factsOf(head);
    const same = version === listing.version && (bytes === undefined || bytes === listing.bytes);
    return same ? 'current' : 'changed';
  } catch (error) {
    watcher.signal.throwIfAborted();
    if (listing.done) return 'current';
    throw error;
  }
}

/** The number of intact blocks from the start. */
async function verified(folder: FileSystemDirectoryHandle, name: string, listing: Listing, watcher: Watcher): Promise<number> {
  const file = await (await folder.getFileHandle(name, { create: true })).getFile();
  for (let block = 0; block < listing.sums.length; block++) {
    watcher.signal.throwIfAborted();
    const start = block * BLOCK;
    const end = Math.min(start + BLOCK, listing.bytes);
    if (end > file.size) return block;
    const sum = await sumOf(await file.slice(start, end).arrayBuffer());
    if (sum !== listing.sums[block]) return block;
    watcher.progress('verify', name, end, listing.bytes);
  }
  return listing.sums.length;
}

/** Downloads what `listing` lacks, or all of it; returns the complete listing, or `undefined` if the file does not exist. */
async function fill(
  url: string, name: string, folder: FileSystemDirectoryHandle, access: FileSystemSyncAccessHandle,
  known: Listing | undefined, watcher: Watcher,
): Promise<Listing | undefined> {
  let start = (known?.sums.length ?? 0) * BLOCK;
  const headers: Record<string, string> = {};
  if (known && start > 0) {
    headers['Range'] = `bytes=${start}-`;
    // Prevents mixing two versions in one file. Weak tags can't be used for that.
    if (known.version && !known.version.startsWith('W/')) headers['If-Range'] = known.version;
  }
  const response = await request(url, { headers, cache: 'no-store' }, watcher.signal);
  if (!response) return undefined;
  const facts = factsOf(response);
  let listing = known;
  const goesOn = listing && response.status === 206 && facts.bytes === listing.bytes && facts.version === listing.version;
  if (!listing || !goesOn) {
    if (response.status !== 200) {
      response.body?.cancel().catch(() => undefined);
      // Another version, or an unsupported range: start over.
      if (start > 0) return await fill(url, name, folder, access, undefined, watcher);
      throw new KingletError('network', `${url}: HTTP ${response.status}`);
    }
    start = 0;
    listing = { url, version: facts.version, bytes: facts.bytes ?? -1, sums: [], done: false };
  }
  if (listing.bytes >= 0) await makeRoom(name, listing.bytes - start);
  access.truncate(start);
  let loaded = start;
  let filled = 0;
  const block = new Uint8Array(BLOCK);
  const put = async () => {
    const bytes = block.subarray(0, filled);
    const at = listing.sums.length * BLOCK;
    if (access.write(bytes, { at }) !== filled) {
      throw new KingletError('quota', `the browser's storage has no room for ${name}`);
    }
    listing.sums.push(await sumOf(bytes));
    filled = 0;
    if (listing.sums.length % LIST_EVERY === 0) await keep();
  };
  const keep = async () => {
    access.flush();
    await writeWhole(folder, `${name}.sums`, new TextEncoder().encode(JSON.stringify(listing)));
  };
  try {
    for await (const chunk of chunksOf(response, url, watcher.signal)) {
      for (let at = 0; at < chunk.length; ) {
        const taken = Math.min(BLOCK - filled, chunk.length - at);
        block.set(chunk.subarray(at, at + taken), filled);
        filled += taken;
        at += taken;
        if (filled === BLOCK) await put();
      }
      loaded += chunk.length;
      watcher.progress('download', name, loaded, listing.bytes >= 0 ? listing.bytes : undefined);
    }
    if (listing.bytes >= 0 && loaded !== listing.bytes) throw brokenOff(url, loaded, listing.bytes);
  } catch (error) {
    // Keep whole blocks for the next time, unless there is no room even for that.
    if (listing.bytes >= 0) await keep().catch(() => undefined);
    throw error;
  }
  if (filled > 0) await put();
  listing.bytes = loaded;
  listing.done = true;
  await keep();
  return listing;
}

/** Fails at once if there is known to be too little room. */
async function makeRoom(name: string, bytes: number): Promise<void> {
  const { quota, usage } = await navigator.storage.estimate();
  if (quota !== undefined && usage !== undefined && bytes > quota - usage) {
    const mb = (value: number) => `${Math.max(0, Math.round(value / 1e6))} MB`;
    throw new KingletError('quota', `the browser's storage has no room for ${name}: it needs ${mb(bytes)}, ${mb(quota - usage)} are left`);
  }
}

async function sumOf(bytes: BufferSource): Promise<string> {
  const sum = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(sum, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

async function openFolder(base: string, mode: CacheMode, watcher: Watcher): Promise<FileSystemDirectoryHandle | undefined> {
  try {
    if (!globalThis.isSecureContext || !navigator.storage?.getDirectory || !globalThis.crypto?.subtle) {
      throw new KingletError('storage', 'the browser has no file storage here (it needs HTTPS)');
    }
    const root = await navigator.storage.getDirectory();
    const models = await (await root.getDirectoryHandle('kinglet', { create: true })).getDirectoryHandle('models', { create: true });
    const folder = await models.getDirectoryHandle((await sumOf(new TextEncoder().encode(base))).slice(0, 32), { create: true });
    await writeWhole(folder, 'url', new TextEncoder().encode(base));
    return folder;
  } catch (error) {
    const failure = storageFailure(error, 'the model') ?? new KingletError('storage', String(error), { cause: error });
    if (mode === 'require') throw failure;
    watcher.notice(`${failure.message}. The model is used without storing it.`);
    return undefined;
  }
}

async function readWhole(folder: FileSystemDirectoryHandle, name: string): Promise<Uint8Array | undefined> {
  try {
    return new Uint8Array(await (await (await folder.getFileHandle(name)).getFile()).arrayBuffer());
  } catch {
    return undefined;
  }
}

async function writeWhole(folder: FileSystemDirectoryHandle, name: string, contents: Uint8Array): Promise<void> {
  const access = await (await folder.getFileHandle(name, { create: true })).createSyncAccessHandle();
  try {
    access.truncate(0);
    if (access.write(contents, { at: 0 }) !== contents.length) throw new KingletError('quota', `the browser's storage has no room for ${name}`);
    access.flush();
  } finally {
    access.close();
  }
}

/** The listing of a stored file, if it belongs to this address. */
async function readListing(folder: FileSystemDirectoryHandle, name: string, url: string): Promise<Listing | undefined> {
  const bytes = await readWhole(folder, `${name}.sums`);
  if (!bytes) return undefined;
  try {
    const listing = JSON.parse(new TextDecoder().decode(bytes)) as Listing;
    const sound = listing.url === url && Number.isSafeInteger(listing.bytes) && Array.isArray(listing.sums)
      && listing.sums.length <= Math.ceil(listing.bytes / BLOCK);
    if (!sound || (listing.done && listing.sums.length !== Math.ceil(listing.bytes / BLOCK))) return undefined;
    if (listing.done) return listing;
    // The sum of a shorter last block exists only if the file is complete.
    listing.sums.length = Math.min(listing.sums.length, Math.floor(listing.bytes / BLOCK));
    return listing;
  } catch {
    // The page was closed while it was being written.
    return undefined;
  }
}

/** The faster backend, by the key of the measurement. */
const MEASURED = 'measured.json';
/** Number of remembered outcomes. */
const OUTCOMES = 64;

async function outcomes(): Promise<[string, 'cpu' | 'webgpu'][]> {
  try {
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('kinglet');
    const list = JSON.parse(new TextDecoder().decode(await readWhole(folder, MEASURED))) as unknown;
    return (Array.isArray(list) ? list : []).filter((entry) => Array.isArray(entry) && (entry[1] === 'cpu' || entry[1] === 'webgpu'));
  } catch {
    // Nothing was measured, or nothing can be stored.
    return [];
  }
}

/** The outcome passed to {@link remember}. */
export async function recall(what: string): Promise<'cpu' | 'webgpu' | undefined> {
  return (await outcomes()).find(([known]) => known === what)?.[1];
}

/** Remembers which backend was faster, if anything can be stored. */
export async function remember(what: string, faster: 'cpu' | 'webgpu'): Promise<void> {
  const list = [[what, faster], ...(await outcomes()).filter(([known]) => known !== what)].slice(0, OUTCOMES);
  try {
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('kinglet', { create: true });
    await writeWhole(folder, MEASURED, new TextEncoder().encode(JSON.stringify(list)));
  } catch {
    // Then it is measured again.
  }
}
