// What goes in and comes out: no code.

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
  /**
   * What computes. `auto`, the default: the processor without a graphics card, the card for large models, and for small ones what is
   * faster here, which is measured the first time.
   */
  backend?: 'auto' | 'cpu' | 'webgpu';
  /**
   * Threads of the processor, where the page is cross-origin isolated; elsewhere there is one. If not given, half of what the browser
   * names: fast cores, or physical ones.
   */
  threads?: number;
  /** The most tokens that a session may hold. */
  contextLimit?: number;
  /** What quantized matrices are multiplied with: `auto` is fastest, `f32` exact. */
  activations?: 'auto' | 'f32';
  /** Bytes of states that are kept so that prompts need not be computed again; 64 MB by default. */
  cacheBytes?: number;
  /** The last positions that attention sees: a session's memory is bounded then. All if not given. */
  attentionWindow?: number;
  /** The first positions, which it sees as well. */
  attentionSinks?: number;
  /** Bits of keys and values in attention's memory; 32 if not given. */
  kvBits?: 32 | 8 | 4;
  /** Bits of recurrent states between steps; 32 if not given. */
  stateBits?: 32 | 16;
}

/** What a loaded model is. */
export interface ModelInfo {
  backend: 'cpu' | 'webgpu';
  /** Backend and device, for people. */
  description: string;
  /** Threads of the processor that compute. */
  threads: number;
  vocab: number;
  layers: number;
  weightBytes: number;
  /** Whether it has a chat template. */
  chat: boolean;
  stopTokens: number[];
  maxNewTokens: number | null;
  /** What should be known but is no error: that there was no room to keep the model, for example. */
  notices: string[];
  /** Milliseconds that a token took on each backend, where the choice between them was measured this time. */
  measured?: { cpu: number; webgpu: number };
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
  /** The most tokens of the answer; if not given, what `generation_config.json` says, or 2048. */
  maxTokens?: number;
  /** 0 is greedy: always the most probable token. */
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  typicalP?: number;
  repetitionPenalty?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  /** Strength of the penalty on repeated sequences, "DRY". */
  dryMultiplier?: number;
  /** How often the most probable tokens are left out, "XTC", and from which probability on. */
  xtcProbability?: number;
  xtcThreshold?: number;
  /** What random numbers begin with; if not given, another one each time. */
  seed?: number;
  /** Texts that end the answer, besides those of `generation_config.json`. */
  stop?: string[];
  /** Tokens that end the answer, besides the model's own. */
  stopTokens?: number[];
  /** Goes on after the model's own stop tokens and stop texts. */
  ignoreEos?: boolean;
  /**
   * Guesses up to so many tokens of a step by what followed the same words before, and verifies them together: faster where a text quotes or
   * repeats, and the same answer. 6 is usual; 0, the default, is off.
   */
  speculate?: number;
  /** Variables for the template. */
  variables?: Record<string, unknown>;
  /** Tools for the template. */
  tools?: unknown[];
  /** Which chat template to use, by name, where the model has several. */
  template?: string;
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
  /** How guesses went, where `speculate` asked for them: steps of the model, tokens guessed, guesses that were right. */
  speculation: { steps: number; drafted: number; accepted: number } | null;
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
