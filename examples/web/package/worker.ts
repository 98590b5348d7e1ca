// The worker, which does all computation. It answers the calls of `index.ts` one after another.

import type { Engine, Sequence, Snapshot } from './kinglet_web.js';
import { choose, open, ready } from './engines.js';
import type { EngineOptions } from './engines.js';
import { KingletError, plain } from './errors.js';
import { fromFiles } from './sources.js';
import { fromUrl, remember } from './store.js';
import type { CacheMode } from './store.js';
import type { Call, Happening, PostedSource, Reply, Stop } from './protocol.js';

declare const self: DedicatedWorkerGlobalScope & { kingletPanic?: string };

/** Milliseconds of computation between two checks for a stop request. */
const TURN = 12;

let engine: Engine | undefined;
let memory: WebAssembly.Memory | undefined;
/** Why nothing can be computed any more. */
let dead: KingletError | undefined;
let next = 1;
const sequences = new Map<number, Sequence>();
const snapshots = new Map<number, Snapshot>();
const aborts = new Map<number, AbortController>();

/** Lets pending messages in. */
const pause = (() => {
  const { port1, port2 } = new MessageChannel();
  const waiting: (() => void)[] = [];
  port1.onmessage = () => waiting.shift()?.();
  return () => new Promise<void>((resolve) => {
    waiting.push(resolve);
    port2.postMessage(null);
  });
})();

function tell(id: number, event: string, data: unknown): void {
  self.postMessage({ id, event, data } satisfies Happening);
}

function held<T>(map: Map<number, T>, handle: unknown, what: string): T {
  const value = map.get(handle as number);
  if (!value) throw new KingletError('disposed', `this ${what} was disposed`);
  return value;
}

function keep<T>(map: Map<number, T>, value: T): number {
  map.set(next, value);
  return next++;
}

function loaded(): Engine {
  if (!engine) throw new KingletError('disposed', 'no model is loaded');
  return engine;
}

interface LoadArgs {
  source: PostedSource;
  cache: CacheMode;
  engine: EngineOptions;
  crashes: string;
}

async function load(id: number, { source, cache, engine: options, crashes }: LoadArgs, signal: AbortSignal): Promise<unknown> {
  const notices: string[] = [];
  // The module that most cases need, fetched while the model is located.
  const early = self.crossOriginIsolated ? undefined : ready('webgpu', {}, crashes, notices, signal);
  early?.catch(() => undefined);
  let told = 0;
  const progress = (phase: string, file: string, done: number, total: number | undefined) => {
    const now = performance.now();
    if (now - told < 50 && done !== total) return;
    told = now;
    tell(id, 'progress', { phase, file, loaded: done, total });
  };
  const files = source.kind === 'url'
    ? await fromUrl(source.url, cache, { signal, notice: (text) => notices.push(text), progress })
    : await fromFiles(source.files);
  signal.throwIfAborted();
  const { backend, undecided } = await choose(files, options);
  const total = files.ranged.reduce((sum, file) => sum + file.bytes, 0);
  const openOn = async (backend: 'cpu' | 'webgpu') => {
    const module = await (early ?? ready(backend, options, crashes, notices, signal));
    memory = module.memory;
    let read = 0;
    return await open(module, files, { ...options, backend }, (file, bytes) => {
      read += bytes;
      progress('open', file, Math.min(read, total - 1), total);
    });
  };
  try {
    engine = await openOn(backend);
  } catch (error) {
    // A GPU that was not requested explicitly may be missing, or compute wrongly.
    const { code, message } = plain(error);
    if (options.backend === backend || backend !== 'webgpu' || !['no-webgpu', 'device'].includes(code)) throw error;
    notices.push(`The GPU is not used: ${message}`);
    engine = await openOn('cpu');
  }
  signal.throwIfAborted();
  progress('open', '', total, total);
  return { ...JSON.parse(engine.info()), notices, undecided };
}

/** Milliseconds per token, after the first; generates some tokens to measure it. */
async function pace(signal: AbortSignal): Promise<number> {
  const LONGEST = 1500;
  const times: number[] = [];
  await loaded().pace(() => {
    times.push(performance.now());
    return pause().then(() => signal.aborted || performance.now() - (times[0] ?? 0) > LONGEST);
  });
  signal.throwIfAborted();
  const [first = 0, last = 0] = [times[0], times.at(-1)];
  return times.length > 1 ? (last - first) / (times.length - 1) : Infinity;
}

/** An answer: tokens are reported in batches, one per turn of the event loop. */
async function answer(
  id: number, kind: 'chat' | 'generate', handle: unknown, input: string, options: string, signal: AbortSignal,
): Promise<unknown> {
  const sequence = held(sequences, handle, 'session');
  const begun = performance.now();
  let promptDone = begun;
  let tokensBegun: number | undefined;
  let count = 0;
  let turn = begun;
  let batch: { id: number; text: string }[] = [];
  const flush = () => {
    if (batch.length > 0) tell(id, 'tokens', batch);
    batch = [];
  };
  const hook = (event: string, a: number, b: number | string): boolean | Promise<boolean> => {
    const now = performance.now();
    if (event === 'prompt') {
      promptDone = now;
      tell(id, 'prompt', { done: a, total: b });
    } else if (event === 'token') {
      tokensBegun ??= now;
      count++;
      batch.push({ id: a, text: b as string });
    } else {
      batch.push({ id: -1, text: b as string });
    }
    if (signal.aborted) return true;
    if (now - turn < TURN && count !== 1) return false;
    flush();
    return pause().then(() => {
      turn = performance.now();
      return signal.aborted;
    });
  };
  const ended = JSON.parse(await sequence[kind](input, options, hook));
  flush();
  const over = performance.now();
  // The first token includes the prompt: the rest gives the generation speed.
  const seconds = tokensBegun === undefined ? 0 : (over - tokensBegun) / 1000;
  return {
    ...ended,
    promptSeconds: (promptDone - begun) / 1000,
    seconds: (over - begun) / 1000,
    tokensPerSecond: count > 1 && seconds > 0 ? (count - 1) / seconds : 0,
  };
}

async function run({ id, method, args }: Call, signal: AbortSignal): Promise<unknown> {
  switch (method) {
    case 'load': return await load(id, args[0] as LoadArgs, signal);
    case 'pace': return await pace(signal);
    case 'remember': return await remember(args[0] as string, args[1] as 'cpu' | 'webgpu');
    case 'stats': return { ...JSON.parse(loaded().stats()), wasmBytes: memory?.buffer.byteLength ?? 0 };
    case 'tokenize': return loaded().tokenize(args[0] as string);
    case 'session': return keep(sequences, loaded().sequence());
    case 'readSession': return keep(sequences, await loaded().readSequence(new Uint8Array(args[0] as ArrayBuffer)));
    case 'chat':
    case 'generate': return await answer(id, method, args[0], args[1] as string, args[2] as string, signal);
    case 'sessionStats': return JSON.parse(held(sequences, args[0], 'session').stats());
    case 'sessionTokens': return held(sequences, args[0], 'session').tokens();
    case 'fork': return keep(sequences, held(sequences, args[0], 'session').fork());
    case 'snapshot': {
      const snapshot = held(sequences, args[0], 'session').snapshot();
      return { handle: keep(snapshots, snapshot), tokens: snapshot.position() };
    }
    case 'lastPrompt': {
      const snapshot = held(sequences, args[0], 'session').lastPrompt();
      return snapshot && { handle: keep(snapshots, snapshot), tokens: snapshot.position() };
    }
    case 'restore': return held(sequences, args[0], 'session').restore(held(snapshots, args[1], 'snapshot'));
    case 'save': return (await held(sequences, args[0], 'session').save()).buffer;
    case 'saveSnapshot': return (await held(snapshots, args[0], 'snapshot').save()).buffer;
    case 'disposeSession': return dispose(sequences, args[0]);
    case 'disposeSnapshot': return dispose(snapshots, args[0]);
    default: throw new KingletError('argument', `unknown method ${method}`);
  }
}

function dispose(map: Map<number, { free(): void }>, handle: unknown): void {
  map.get(handle as number)?.free();
  map.delete(handle as number);
}

/** The thrown error with its code. */
function understood(thrown: unknown, signal: AbortSignal): { name: string; message: string; code: string } {
  if (thrown instanceof WebAssembly.RuntimeError) {
    const panic = self.kingletPanic;
    const why = panic ?? 'most likely there was no memory left';
    dead = new KingletError(panic ? 'crashed' : 'memory', `the engine stopped: ${why}. Load the model again.`);
    return plain(dead);
  }
  if (thrown instanceof KingletError) return plain(thrown);
  if (signal.aborted || (thrown instanceof DOMException && thrown.name === 'AbortError')) {
    return { name: 'AbortError', message: 'aborted', code: 'aborted' };
  }
  return plain(thrown);
}

let last: Promise<void> = Promise.resolve();

async function perform(call: Call, signal: AbortSignal): Promise<void> {
  let reply: Reply;
  try {
    if (dead) throw dead;
    // An answer that is cancelled before it starts ends like a stopped one.
    if (call.method === 'load') signal.throwIfAborted();
    reply = { id: call.id, ok: true, value: await run(call, signal) };
  } catch (thrown) {
    reply = { id: call.id, ok: false, error: understood(thrown, signal) };
  }
  aborts.delete(call.id);
  const value = reply.ok ? reply.value : undefined;
  self.postMessage(reply, value instanceof ArrayBuffer ? [value] : []);
}

self.onmessage = ({ data }: MessageEvent<Call | Stop>) => {
  if ('stop' in data) {
    aborts.get(data.stop)?.abort();
    return;
  }
  const abort = new AbortController();
  aborts.set(data.id, abort);
  last = last.then(() => perform(data, abort.signal));
};
