// Kinglet: recurrent and hybrid language models in the browser. Everything that computes is in a worker; what is here is its handle.

import { KingletError } from './errors.js';
import type { ErrorCode } from './errors.js';
import type { Call, Happening, NamedFile, PostedSource, Reply } from './protocol.js';

// Older browsers lack the symbol, not what it is for.
(Symbol as { dispose?: symbol }).dispose ??= Symbol.for('Symbol.dispose');

export { KingletError };
export type { ErrorCode };

/**
 * Where a model is: the address of its folder (as it is on the hub: `config.json`, `model.safetensors` or its shards,
 * `tokenizer.json`, ...), its files, an uncompressed tar archive of them, or a handle to either.
 */
export type ModelSource = string | URL | File | FileSystemHandle | FileList | readonly File[];

/** What is happening while a model is loaded. */
export interface Progress {
  /** `download` from the server, `verify` what is stored, `open` the model. */
  phase: 'download' | 'verify' | 'open';
  /** The file. */
  file: string;
  /** Bytes done. */
  loaded: number;
  /** Bytes in all, where that is known. */
  total: number | undefined;
}

/** How a model is loaded. */
export interface LoadOptions {
  onProgress?: (progress: Progress) => void;
  signal?: AbortSignal;
  /**
   * Whether downloads are kept in the browser (origin private file system): `auto`, the default, where there is room; `require`,
   * an error if not; `off`.
   */
  cache?: 'auto' | 'require' | 'off';
  /** What computes; `auto`, the default, chooses by what there is and by the model's size. */
  backend?: 'auto' | 'cpu' | 'webgpu';
  /** The most tokens that a session may hold. */
  contextLimit?: number;
  /** What quantized matrices are multiplied with: `auto` is fastest, `f32` exact. */
  activations?: 'auto' | 'f32';
  /** Bytes of states that are kept so that prompts need not be computed again; 64 MB by default. */
  cacheBytes?: number;
}

/** What a loaded model is. */
export interface ModelInfo {
  backend: 'cpu' | 'webgpu';
  /** Backend and device, for people. */
  description: string;
  vocab: number;
  layers: number;
  weightBytes: number;
  /** Whether it has a chat template. */
  chat: boolean;
  stopTokens: number[];
  maxNewTokens: number | null;
  /** What should be known but is no error: that there was no room to keep the model, for example. */
  notices: string[];
}

/** What a model holds and has done. */
export interface ModelStats {
  /** Memory of the WebAssembly module. */
  wasmBytes: number;
  weightBytes: number;
  /** Memory of the graphics card that weights, states and steps take; 0 without. */
  deviceBytes: number;
  /** States kept so that prompts need not be computed again. */
  cacheBytes: number;
  cachedSnapshots: number;
  /** Tokens of prompts whose state was there already, and that were computed. */
  reusedTokens: number;
  computedTokens: number;
}

/** A message of a conversation. Templates may know further fields. */
export interface Message {
  role: string;
  content: string;
  [field: string]: unknown;
}

/** How an answer is generated. What is not given is as the model's authors set it. */
export interface ChatOptions {
  maxTokens?: number;
  /** 0 is greedy: always the most probable token. */
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  /** What random numbers begin with; if not given, another one each time. */
  seed?: number;
  /** Texts that end the answer. */
  stop?: string[];
  /** Variables for the template. */
  variables?: Record<string, unknown>;
  /** Tools for the template. */
  tools?: unknown[];
  /** Ends the answer early; what there is of it stays. */
  signal?: AbortSignal;
  /** Tokens of the prompt computed so far. */
  onPrompt?: (progress: { done: number; total: number }) => void;
}

/** A piece of an answer. */
export interface Token {
  /** Its number in the vocabulary; -1 for text that was held back until the end. */
  id: number;
  /** What it adds to the text; may be empty. */
  text: string;
}

/** How an answer ended, and what it took. */
export interface Answer {
  text: string;
  /** Its tokens, with the one that ended it. */
  ids: number[];
  reason: 'stop-token' | 'stop-string' | 'max-tokens' | 'context-full' | 'stopped';
  promptTokens: number;
  /** Tokens of the prompt whose state was there already. */
  reusedTokens: number;
  promptSeconds: number;
  seconds: number;
  /** Speed of generation after the first token. */
  tokensPerSecond: number;
  /** Tokens that the session holds now, and bytes of its state. */
  position: number;
  stateBytes: number;
}

/** What a session holds. */
export interface SessionStats {
  tokens: number;
  stateBytes: number;
}

interface Pending {
  resolve(value: unknown): void;
  reject(error: KingletError): void;
  happened?: ((event: string, data: unknown) => void) | undefined;
}

/** Calls to a worker. */
class Channel {
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  #next = 1;
  #over: KingletError | undefined;

  constructor() {
    try {
      this.#worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'kinglet' });
    } catch (cause) {
      throw new KingletError('unsupported', 'the browser refuses a worker', { cause });
    }
    this.#worker.onmessage = ({ data }: MessageEvent<Reply | Happening>) => this.#receive(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.end(new KingletError('crashed', `the worker has stopped: ${event.message ?? 'it could not be loaded'}`));
    };
  }

  #receive(data: Reply | Happening): void {
    const pending = this.#pending.get(data.id);
    if (!pending) return;
    if ('event' in data) {
      pending.happened?.(data.event, data.data);
      return;
    }
    this.#pending.delete(data.id);
    if (data.ok) pending.resolve(data.value);
    else pending.reject(new KingletError(data.error.code as ErrorCode, data.error.message));
  }

  call<T>(
    method: string, args: unknown[],
    options: { signal?: AbortSignal | undefined; happened?: (event: string, data: unknown) => void; transfer?: Transferable[] } = {},
  ): Promise<T> {
    if (this.#over) return Promise.reject(this.#over);
    const id = this.#next++;
    const { signal } = options;
    const stop = () => this.#worker.postMessage({ stop: id });
    return new Promise<unknown>((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, happened: options.happened });
      try {
        this.#worker.postMessage({ id, method, args } satisfies Call, options.transfer ?? []);
      } catch (cause) {
        this.#pending.delete(id);
        reject(new KingletError('argument', `${method}: this can't be sent to a worker`, { cause }));
        return;
      }
      if (signal?.aborted) stop();
      signal?.addEventListener('abort', stop);
    }).finally(() => signal?.removeEventListener('abort', stop)) as Promise<T>;
  }

  end(error: KingletError): void {
    this.#over ??= error;
    this.#worker.terminate();
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    pending.forEach(({ reject }) => reject(error));
  }
}

/** A language model, loaded in a worker of its own. */
export class Model {
  readonly info: ModelInfo;
  readonly #channel: Channel;

  private constructor(channel: Channel, info: ModelInfo) {
    this.#channel = channel;
    this.info = info;
  }

  /**
   * Loads a model.
   *
   * @throws {KingletError} that says what was wrong, and by its `code` what kind of thing.
   */
  static async load(source: ModelSource, options: LoadOptions = {}): Promise<Model> {
    const { onProgress, signal, cache = 'auto', ...engine } = options;
    const posted = await postable(source);
    const channel = new Channel();
    try {
      const wasm = new URL('./kinglet_web_bg.wasm', import.meta.url).href;
      const info = await channel.call<ModelInfo>('load', [{ wasm, source: posted, cache, engine }], {
        signal,
        happened: (event, data) => event === 'progress' && onProgress?.(data as Progress),
      });
      return new Model(channel, info);
    } catch (error) {
      channel.end(new KingletError('disposed', 'the model was not loaded'));
      throw error;
    }
  }

  /** A session without tokens. */
  async session(): Promise<Session> {
    return new Session(this.#channel, await this.#channel.call<number>('session', []));
  }

  /** A session that {@link Session.save} or {@link Snapshot.save} wrote. */
  async restoreSession(saved: ArrayBuffer): Promise<Session> {
    return new Session(this.#channel, await this.#channel.call<number>('readSession', [saved]));
  }

  /** The tokens of a text. */
  async tokenize(text: string): Promise<Uint32Array> {
    return await this.#channel.call<Uint32Array>('tokenize', [text]);
  }

  /** Memory, and what was reused of prompts. */
  async stats(): Promise<ModelStats> {
    return await this.#channel.call<ModelStats>('stats', []);
  }

  /** Frees all memory. Sessions and snapshots are gone with it. */
  dispose(): void {
    this.#channel.end(new KingletError('disposed', 'the model was disposed'));
  }

  /** {@link Model.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** A sequence of tokens and its state. */
export class Session {
  readonly #channel: Channel;
  readonly #handle: number;

  /** @internal */
  constructor(channel: Channel, handle: number) {
    this.#channel = channel;
    this.#handle = handle;
  }

  /**
   * Answers the last of `messages`. Only what the session (or another one of the model) has not computed before is computed: to call it
   * again with the same messages gives another answer from the state that the first one began with.
   */
  chat(messages: readonly Message[], options: ChatOptions = {}): ChatStream {
    return this.#answer('chat', JSON.stringify(messages), options);
  }

  /** Continues a text as it is, without a template. */
  generate(prompt: string, options: ChatOptions = {}): ChatStream {
    return this.#answer('generate', prompt, options);
  }

  #answer(method: string, input: string, options: ChatOptions): ChatStream {
    const { signal, onPrompt, seed = Math.floor(Math.random() * 2 ** 32), ...rest } = options;
    const local = new Date();
    const now = Math.floor(local.getTime() / 1000) - local.getTimezoneOffset() * 60;
    const json = JSON.stringify({ ...rest, seed, now });
    return new ChatStream((stop, happened) => {
      const either = signal ? AbortSignal.any([signal, stop]) : stop;
      return this.#channel.call<Answer>(method, [this.#handle, input, json], { signal: either, happened });
    }, onPrompt);
  }

  /** What the session is now, to come back to. It stays in the worker; {@link Snapshot.save} takes it out. */
  async snapshot(): Promise<Snapshot> {
    const { handle, tokens } = await this.#channel.call<{ handle: number; tokens: number }>('snapshot', [this.#handle]);
    return new Snapshot(this.#channel, handle, tokens);
  }

  /** Makes the session what it was, or another one of the model was, at the time of the snapshot. */
  async restore(snapshot: Snapshot): Promise<void> {
    await this.#channel.call('restore', [this.#handle, snapshot.handle]);
  }

  /** What the session was before its last answer: at the end of the prompt. */
  async lastPrompt(): Promise<Snapshot | undefined> {
    const found = await this.#channel.call<{ handle: number; tokens: number } | undefined>('lastPrompt', [this.#handle]);
    return found && new Snapshot(this.#channel, found.handle, found.tokens);
  }

  /** A second session that goes on from here by itself. */
  async fork(): Promise<Session> {
    return new Session(this.#channel, await this.#channel.call<number>('fork', [this.#handle]));
  }

  /** All of the session as bytes: {@link Model.restoreSession} brings it back, in another page, on another day. */
  async save(): Promise<ArrayBuffer> {
    return await this.#channel.call<ArrayBuffer>('save', [this.#handle]);
  }

  /** Tokens held, and bytes of state. */
  async stats(): Promise<SessionStats> {
    return await this.#channel.call<SessionStats>('sessionStats', [this.#handle]);
  }

  /** The tokens taken so far. */
  async tokens(): Promise<Uint32Array> {
    return await this.#channel.call<Uint32Array>('sessionTokens', [this.#handle]);
  }

  /** Frees its state. */
  async dispose(): Promise<void> {
    await this.#channel.call('disposeSession', [this.#handle]);
  }
}

/** What a session was at a moment. */
export class Snapshot {
  readonly #channel: Channel;
  /** @internal */
  readonly handle: number;
  /** Tokens that the session had taken. */
  readonly tokens: number;

  /** @internal */
  constructor(channel: Channel, handle: number, tokens: number) {
    this.#channel = channel;
    this.handle = handle;
    this.tokens = tokens;
  }

  /** As {@link Session.save}. */
  async save(): Promise<ArrayBuffer> {
    return await this.#channel.call<ArrayBuffer>('saveSnapshot', [this.handle]);
  }

  /** Frees it. */
  async dispose(): Promise<void> {
    await this.#channel.call('disposeSnapshot', [this.handle]);
  }
}

/**
 * An answer in the making: its tokens, for `for await`, and how it ended. It begins at once. To leave the loop early stops it.
 */
export class ChatStream implements AsyncIterable<Token> {
  /** How the answer ended. */
  readonly answer: Promise<Answer>;
  readonly #stop = new AbortController();
  #queue: Token[] = [];
  #text = '';
  #over = false;
  #failed: unknown;
  #wake: (() => void) | undefined;

  /** @internal */
  constructor(
    begin: (stop: AbortSignal, happened: (event: string, data: unknown) => void) => Promise<Answer>,
    onPrompt?: (progress: { done: number; total: number }) => void,
  ) {
    const happened = (event: string, data: unknown) => {
      if (event === 'prompt') onPrompt?.(data as { done: number; total: number });
      if (event !== 'tokens') return;
      for (const token of data as Token[]) {
        this.#text += token.text;
        this.#queue.push(token);
      }
      this.#wake?.();
    };
    this.answer = begin(this.#stop.signal, happened).then((ended) => ({ ...ended, text: this.#text }));
    this.answer.catch((error) => (this.#failed = error)).finally(() => {
      this.#over = true;
      this.#wake?.();
    });
  }

  /** Ends the answer. What there is of it stays. */
  stop(): void {
    this.#stop.abort();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Token, void, void> {
    try {
      for (;;) {
        const batch = this.#queue;
        this.#queue = [];
        yield* batch;
        if (this.#queue.length > 0) continue;
        if (this.#failed) throw this.#failed;
        if (this.#over) return;
        await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    } finally {
      if (!this.#over) {
        this.stop();
        await this.answer.catch(() => undefined);
      }
    }
  }
}

/** Models whose downloads are kept in the browser. */
export const storage = {
  /** Their addresses, and what they take. */
  async list(): Promise<{ url: string; bytes: number }[]> {
    const found: { url: string; bytes: number }[] = [];
    for await (const folder of storedFolders()) {
      let [url, bytes] = ['', 0];
      for await (const entry of folder.values()) {
        if (entry.kind !== 'file') continue;
        const file = await (entry as FileSystemFileHandle).getFile();
        if (entry.name === 'url') url = await file.text();
        bytes += file.size;
      }
      if (url) found.push({ url, bytes });
    }
    return found;
  },

  /** Forgets what is kept of a model. */
  async remove(url: string): Promise<void> {
    const root = await modelsFolder();
    for await (const folder of storedFolders()) {
      const handle = await folder.getFileHandle('url').catch(() => undefined);
      const stored = handle && await (await handle.getFile()).text();
      if (stored === url) await root?.removeEntry(folder.name, { recursive: true });
    }
  },
};

async function modelsFolder(): Promise<FileSystemDirectoryHandle | undefined> {
  try {
    const root = await navigator.storage.getDirectory();
    return await (await root.getDirectoryHandle('kinglet')).getDirectoryHandle('models');
  } catch {
    // Nothing was stored yet, or nothing can be.
    return undefined;
  }
}

async function* storedFolders(): AsyncGenerator<FileSystemDirectoryHandle> {
  const root = await modelsFolder();
  if (!root) return;
  for await (const entry of root.values()) {
    if (entry.kind === 'directory') yield entry as FileSystemDirectoryHandle;
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
    // A model's folder is flat.
    if (entry.kind === 'file') files.push(...await filesOf(entry, `${name}/`));
  }
  return files;
}
