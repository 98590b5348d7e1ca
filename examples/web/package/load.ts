// Loads a model: its source, and what to compute with.

import { Channel } from './channel.js';
import { KingletError } from './errors.js';
import { TEMPLATES } from './protocol.js';
import type { NamedFile, PostedSource } from './protocol.js';
import type { LoadOptions, ModelInfo, ModelSource } from './types.js';

/** A worker with a model. */
interface Loaded {
  channel: Channel;
  info: ModelInfo;
}

/** A worker's description of the model that it has loaded. */
interface Answered extends ModelInfo {
  /** Key under which the outcome of a measurement is remembered, if the other backend may be faster. */
  undecided?: string;
}

/** Loads a model in its own worker, on the requested or the fastest backend. */
export async function load(source: ModelSource, options: LoadOptions): Promise<Loaded> {
  const posted = await postable(source);
  const { channel, info: { undecided, ...info } } = await loadOn(posted, options);
  if (undecided === undefined) return { channel, info };
  const first: Loaded = { channel, info };
  let second: Loaded;
  try {
    // In a separate worker, since only the end of a worker frees its memory.
    second = await loadOn(posted, { ...options, backend: 'webgpu' });
  } catch (error) {
    if (options.signal?.aborted) {
      channel.end(new KingletError('disposed', 'the model was not loaded'));
      throw error;
    }
    // A backend without a device is not a choice now, but may be one the next time.
    return first;
  }
  try {
    const pace = ({ channel }: Loaded) => channel.call<number>('pace', [], { signal: options.signal });
    const measured = { cpu: await pace(first), webgpu: await pace(second) };
    const [kept, other] = measured.webgpu < measured.cpu ? [second, first] : [first, second];
    await kept.channel.call('remember', [undecided, kept.info.backend]);
    other.channel.end(new KingletError('disposed', 'the other backend is faster'));
    return { channel: kept.channel, info: { ...kept.info, measured } };
  } catch (error) {
    for (const { channel } of [first, second]) channel.end(new KingletError('disposed', 'the model was not loaded'));
    throw error;
  }
}

async function loadOn(source: PostedSource, options: LoadOptions): Promise<{ channel: Channel; info: Answered }> {
  const { onProgress, signal, cache = 'auto', ...engine } = options;
  const channel = new Channel();
  try {
    const info = await channel.call<Answered>('load', [{ source, cache, engine, crashes: channel.crashes }], {
      signal,
      happened: (event, data) => event === 'progress' && onProgress?.(data as Parameters<typeof onProgress>[0]),
    });
    return { channel, info };
  } catch (error) {
    channel.end(new KingletError('disposed', 'the model was not loaded'));
    throw error;
  }
}

async function postable(source: ModelSource): Promise<PostedSource> {
  if (typeof source === 'string' || source instanceof URL) {
    return { kind: 'url', url: new URL(source, document.baseURI).href };
  }
  if (source instanceof File) return { kind: 'files', files: [{ name: source.name, file: source }] };
  if ('kind' in source) return { kind: 'files', files: await filesOf(source, '') };
  const files = Array.from(source, (file) => ({ name: file.webkitRelativePath || file.name, file }));
  if (files.length === 0) throw new KingletError('argument', 'no files were given');
  return { kind: 'files', files };
}

async function filesOf(handle: FileSystemHandle, prefix: string): Promise<NamedFile[]> {
  const name = prefix + handle.name;
  if (handle.kind === 'file') return [{ name, file: await (handle as FileSystemFileHandle).getFile() }];
  const files: NamedFile[] = [];
  for await (const entry of (handle as FileSystemDirectoryHandle).values()) {
    // A model's folder has no subfolders except for templates.
    if (entry.kind === 'file' || entry.name === TEMPLATES) files.push(...await filesOf(entry, `${name}/`));
  }
  return files;
}
