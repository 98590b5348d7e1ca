// Sources of a model's files: a folder on a server, the user's own files, an archive.

import { KingletError } from './errors.js';
import { TEMPLATES } from './protocol.js';
import type { NamedFile } from './protocol.js';

/** A file whose ranges can be read synchronously. */
export interface Ranged {
  name: string;
  bytes: number;
  /** Whether each read is a request to a server. */
  remote?: boolean;
  read(offset: number, length: number): Uint8Array;
}

/** The files of a model; small ones as a whole. */
export interface ModelFiles {
  whole: { name: string; contents: Uint8Array }[];
  ranged: Ranged[];
}

export const WEIGHTS = 'model.safetensors';
export const INDEX = 'model.safetensors.index.json';
/** Required files. */
export const REQUIRED = ['config.json', 'tokenizer.json'];
/** Optional files. Templates in a folder are added if they can be listed. */
export const OPTIONAL = [
  'generation_config.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'chat_template.json',
];

/** Reads a blob synchronously, which only a worker can do. */
export function blobReader(name: string, blob: Blob): Ranged {
  const reader = new FileReaderSync();
  return {
    name,
    bytes: blob.size,
    read: (offset, length) => {
      if (offset + length > blob.size) {
        throw new KingletError('file', `the file ends at ${blob.size}, before ${offset + length}`);
      }
      return new Uint8Array(reader.readAsArrayBuffer(blob.slice(offset, offset + length)));
    },
  };
}

/** Reads ranges from a server, one request each, if nothing can be stored. */
export function urlReader(name: string, url: string, bytes: number): Ranged {
  return {
    name,
    bytes,
    remote: true,
    read: (offset, length) => {
      const request = new XMLHttpRequest();
      request.open('GET', url, false);
      request.responseType = 'arraybuffer';
      request.setRequestHeader('Range', `bytes=${offset}-${offset + length - 1}`);
      // Bypass cached parts of another version.
      if (new URL(url).origin === self.location.origin) request.setRequestHeader('Cache-Control', 'no-cache');
      try {
        request.send();
      } catch (cause) {
        throw new KingletError('network', `${url} could not be reached`, { cause });
      }
      if (request.status !== 206) throw new KingletError('network', `${url}: HTTP ${request.status} for a range`);
      const total = /\/(\d+)$/.exec(request.getResponseHeader('content-range') ?? '')?.[1];
      if (total !== undefined && Number(total) !== bytes) throw new KingletError('network', `${url} changed while it was read`);
      return new Uint8Array(request.response as ArrayBuffer);
    },
  };
}

/** Names of shards without an index, or with the index of another build. */
const NUMBERED = /^model[-._]\d+-of-\d+\.safetensors$/;

/** The shards that an index names, each once. */
export function shardsOf(index: Uint8Array): string[] {
  let map: unknown;
  try {
    map = (JSON.parse(new TextDecoder().decode(index)) as { weight_map?: unknown }).weight_map;
  } catch (cause) {
    throw new KingletError('weights', `${INDEX} is not valid JSON`, { cause });
  }
  if (typeof map !== 'object' || map === null) throw new KingletError('weights', `${INDEX} has no weight_map`);
  const names = [...new Set(Object.values(map))];
  const plain = (name: unknown): name is string => typeof name === 'string' && /^[^/\\:\0]+$/.test(name) && !/^\.+$/.test(name);
  const odd = names.find((name) => !plain(name));
  if (odd !== undefined) throw new KingletError('weights', `${INDEX} names ${JSON.stringify(odd)}, which is not a file name`);
  return names as string[];
}

/** Whether a file of a model's folder is an additional template. */
export function isTemplate(name: string): boolean {
  const [folder, file, ...deeper] = name.split('/');
  return folder === TEMPLATES && file !== undefined && file.endsWith('.jinja') && deeper.length === 0;
}

/** The model among the user's own files: those of a folder or of an archive (tar, uncompressed). */
export async function fromFiles(given: NamedFile[]): Promise<ModelFiles> {
  let files: { name: string; file: Blob }[] = given;
  const [only] = given;
  if (given.length === 1 && only && /\.tar$/i.test(only.name)) files = await untar(only.file);
  // A folder may contain others. Of files with the same name, prefer the one next to the topmost config, or else the
  // topmost one.
  const depth = (name: string) => name.split('/').length;
  const highest = [...files].sort((a, b) => depth(a.name) - depth(b.name));
  const home = highest.find(({ name }) => /(^|\/)config\.json$/.test(name))?.name.replace(/config\.json$/, '') ?? '';
  const atHome = ({ name }: { name: string }) => name.startsWith(home) && !name.slice(home.length).includes('/');
  const byName = new Map<string, { name: string; file: Blob }>();
  for (const entry of [...highest.filter(atHome), ...highest]) {
    const base = entry.name.split('/').pop() ?? entry.name;
    if (!byName.has(base)) byName.set(base, entry);
  }
  const whole: ModelFiles['whole'] = [];
  const add = async (name: string, file: Blob) => whole.push({ name, contents: new Uint8Array(await file.arrayBuffer()) });
  for (const name of REQUIRED) {
    const found = byName.get(name);
    if (!found) {
      const gguf = [...byName.keys()].find((other) => /\.gguf$/i.test(other));
      const what = gguf
        ? `${gguf} is a GGUF file, which is not supported: choose the files of the original checkpoint, in safetensors format`
        : `choose all files of the model's folder`;
      throw new KingletError('not-found', `${name} is not among the ${files.length} files: ${what}`);
    }
    await add(name, found.file);
  }
  // Optional files are not taken from another folder: they would belong to another model.
  for (const { name, file } of highest) {
    const own = name.startsWith(home) ? name.slice(home.length) : '';
    if (OPTIONAL.includes(own) || isTemplate(own)) await add(own, file);
  }
  // The engine identifies shards by their headers; an index may belong to another build.
  let names = [WEIGHTS];
  const index = byName.get(INDEX);
  const numbered = [...byName.keys()].filter((name) => NUMBERED.test(name));
  if (!byName.has(WEIGHTS) && (index || numbered.length > 0)) {
    const named: string[] = [];
    if (index) {
      const contents = new Uint8Array(await index.file.arrayBuffer());
      whole.push({ name: INDEX, contents });
      named.push(...shardsOf(contents));
    }
    const there = [...new Set([...named, ...numbered])].filter((name) => byName.has(name));
    // The engine reports missing ones, since it knows whether they are needed.
    names = there.length > 0 ? there : named;
  }
  const ranged = names.map((name) => {
    const found = byName.get(name);
    if (!found) throw new KingletError('not-found', `${name} is not among the files: choose all files of the model's folder`);
    return blobReader(name, found.file);
  });
  return { whole, ranged };
}

/** The files of an archive, without copying their contents. */
async function untar(archive: Blob): Promise<{ name: string; file: Blob }[]> {
  const RECORD = 512;
  const broken = () => new KingletError('file', 'this is not a tar archive, or it is damaged');
  const files: { name: string; file: Blob }[] = [];
  let long: string | undefined;
  for (let at = 0; at + RECORD <= archive.size; ) {
    const header = new Uint8Array(await archive.slice(at, at + RECORD).arrayBuffer());
    if (header.every((byte) => byte === 0)) break;
    const text = (from: number, length: number) =>
      new TextDecoder().decode(header.subarray(from, from + length)).replace(/\0[^]*$/, '');
    const size = parseInt(text(124, 12).trim(), 8);
    if (text(257, 5) !== 'ustar' || !Number.isFinite(size) || at + RECORD + size > archive.size) throw broken();
    const contents = archive.slice(at + RECORD, at + RECORD + size);
    const kind = text(156, 1);
    if (kind === 'L') long = (await contents.text()).replace(/\0[^]*$/, '');
    else if (kind === '' || kind === '0') {
      const prefix = text(345, 155);
      files.push({ name: long ?? (prefix ? `${prefix}/${text(0, 100)}` : text(0, 100)), file: contents });
      long = undefined;
    }
    at += RECORD + Math.ceil(size / RECORD) * RECORD;
  }
  if (files.length === 0) throw broken();
  return files;
}
