// Chooses the module, the backend and the number of threads.

import type { Engine } from './kinglet_web.js';
import { KingletError } from './errors.js';
import type { ModelFiles } from './sources.js';
import { recall } from './store.js';

/** The interface of both modules; the one with threads has no WebGPU, whose objects belong to one thread. */
type Glue = typeof import('./kinglet_web.js');

/** The first message to a thread. */
export interface ThreadStart {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  /** Address of the thread's data in the shared memory. */
  address: number;
  /** Channel for reporting a crash: the parent may be waiting for the thread and not receive messages. */
  crashes: string;
}

/** Size of weights, in bytes, up to which both backends are tried: on the CPU larger ones would take memory, and hardly be faster. */
const TRIED_UP_TO = 128e6;
/** Size from which a GPU is used if nothing was measured: a step's hundred kernels take it some milliseconds whatever they read. */
const CARD_FROM = 64e6;
/** Maximum number of threads that the memory has room for. */
const MOST_THREADS = 8;

export type EngineOptions = Record<string, unknown> & { backend?: string; threads?: number };

/** What to compute with. */
interface Choice {
  backend: 'cpu' | 'webgpu';
  /** Key of a measurement to make and remember, if any. */
  undecided?: string;
}

/** Resolves `auto` for these files. */
export async function choose(files: ModelFiles, options: EngineOptions): Promise<Choice> {
  const { backend = 'auto' } = options;
  if (backend === 'cpu' || backend === 'webgpu') return { backend };
  if (backend !== 'auto') throw new KingletError('argument', `backend ${JSON.stringify(backend)}: expected auto, cpu or webgpu`);
  const adapter = await card();
  if (adapter === undefined) return { backend: 'cpu' };
  const bytes = files.ranged.reduce((sum, file) => sum + file.bytes, 0);
  if (bytes > TRIED_UP_TO) return { backend: 'webgpu' };
  // Such a model would have to be loaded twice.
  if (files.ranged.some((file) => file.remote)) return { backend: bytes < CARD_FROM ? 'cpu' : 'webgpu' };
  const undecided = `${adapter}, ${threadsOf(options)} threads, ${bytes} bytes`;
  const known = await recall(undecided);
  return known ? { backend: known } : { backend: 'cpu', undecided };
}

/** The GPU, if there is one; not a software adapter. */
async function card(): Promise<string | undefined> {
  interface Adapter {
    info?: { vendor: string; architecture: string; device: string; isFallbackAdapter?: boolean };
    isFallbackAdapter?: boolean;
  }
  const gpu = (navigator as { gpu?: { requestAdapter(options: object): Promise<Adapter | null> } }).gpu;
  const adapter = await gpu?.requestAdapter({ powerPreference: 'high-performance' }).catch(() => null);
  if (!adapter || (adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter)) return undefined;
  const { vendor = '', architecture = '', device = '' } = adapter.info ?? {};
  return [vendor, architecture, device].join(' ').trim();
}

function threadsOf({ threads }: EngineOptions): number {
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= 64)) {
    throw new KingletError('argument', `threads ${JSON.stringify(threads)}: expected a number from 1 to 64`);
  }
  if (!self.crossOriginIsolated) return 1;
  return threads ?? Math.max(1, Math.min(MOST_THREADS, navigator.hardwareConcurrency >> 1));
}

/** The bytes of either module; `fetch` can be started early. */
function fetched(url: URL, signal: AbortSignal): Promise<Response> {
  return fetch(url, { signal }).catch((cause) => {
    throw new KingletError('network', `${url} could not be loaded`, { cause });
  });
}

/** A module that is ready to open a model. */
export interface Ready {
  glue: Glue;
  memory: WebAssembly.Memory;
  /** Starts the thread whose data is at an address. */
  start?: (address: number) => void;
  threads: number;
}

/** The module for a backend: the one with threads if threads are possible and useful. */
export async function ready(
  backend: 'cpu' | 'webgpu', options: EngineOptions, crashes: string, notices: string[], signal: AbortSignal,
): Promise<Ready> {
  const threads = threadsOf(options);
  if (backend === 'cpu' && threads > 1) {
    try {
      return await withThreads(threads, crashes, signal);
    } catch (error) {
      signal.throwIfAborted();
      notices.push(`Threads are not used: ${error instanceof Error ? error.message : error}`);
    }
  }
  const glue = await import('./kinglet_web.js');
  const { memory } = await glue.default({ module_or_path: fetched(new URL('./kinglet_web_bg.wasm', import.meta.url), signal) });
  return { glue, memory, threads: 1 };
}

async function withThreads(threads: number, crashes: string, signal: AbortSignal): Promise<Ready> {
  const glue = await import('./threads/kinglet_web.js') as unknown as Glue;
  const response = await fetched(new URL('./threads/kinglet_web_bg.wasm', import.meta.url), signal);
  const module = await WebAssembly.compileStreaming(response);
  const { memory } = await glue.default({ module_or_path: module });
  const start = (address: number) => {
    const worker = new Worker(new URL('./thread.js', import.meta.url), { type: 'module', name: 'kinglet thread' });
    worker.postMessage({ module, memory, address, crashes } satisfies ThreadStart);
  };
  return { glue, memory, start, threads };
}

/** Opens a model with a prepared module. */
export async function open(
  { glue, start, threads }: Ready, files: ModelFiles, options: EngineOptions, read: (file: string, bytes: number) => void,
): Promise<Engine> {
  const handed = new glue.Files();
  for (const { name, contents } of files.whole) handed.add(name, contents);
  for (const file of files.ranged) {
    handed.addRanged(file.name, file.bytes, (offset: number, length: number) => {
      const bytes = file.read(offset, length);
      read(file.name, length);
      return bytes;
    });
  }
  return await glue.Engine.open(handed, JSON.stringify({ ...options, threads }), start);
}
