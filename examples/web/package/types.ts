// Types of the interface, without code.

/**
 * The source of a model: the address of its folder (as on the hub: `config.json`, `model.safetensors` or its shards,
 * `tokenizer.json`, ...), its files, an uncompressed tar archive of them, or a handle to either.
 */
export type ModelSource = string | URL | File | FileSystemHandle | FileList | readonly File[];

/** Progress of loading a model. */
export interface Progress {
  /** `download` from the server, `verify` stored files, `open` the model. */
  phase: 'download' | 'verify' | 'open';
  /** The file. */
  file: string;
  /** Bytes done. */
  loaded: number;
  /** Total bytes, if known. */
  total: number | undefined;
}

/** Options for loading a model. */
export interface LoadOptions {
  onProgress?: (progress: Progress) => void;
  signal?: AbortSignal;
  /**
   * Whether downloads are stored in the browser (origin private file system): `auto`, the default, if there is room;
   * `require`, an error if not; `off`.
   */
  cache?: 'auto' | 'require' | 'off';
  /**
   * The backend. `auto`, the default: the CPU without a GPU, the GPU for large models, and for small ones the faster of
   * both, which is measured the first time.
   */
  backend?: 'auto' | 'cpu' | 'webgpu';
  /**
   * CPU threads, if the page is cross-origin isolated; otherwise there is one. The default is half of the browser's
   * number: the fast cores, or the physical ones.
   */
  threads?: number;
  /** Maximum number of tokens of a session. */
  contextLimit?: number;
  /** Activations for quantized matrices: `auto` is fastest, `f32` exact. */
  activations?: 'auto' | 'f32';
  /** Bytes of states to keep, so that prompts need not be computed again; 64 MB by default. */
  cacheBytes?: number;
  /** Number of last positions that attention sees, which bounds a session's memory. All by default. */
  attentionWindow?: number;
  /** Number of first positions that it also sees. */
  attentionSinks?: number;
  /** Bits per element of the key/value cache; 32 by default. */
  kvBits?: 32 | 8 | 4;
  /** Bits per element of recurrent states between steps; 32 by default. */
  stateBits?: 32 | 16;
}

/** Description of a loaded model. */
export interface ModelInfo {
  backend: 'cpu' | 'webgpu';
  /** Backend and device, for people. */
  description: string;
  /** Number of CPU threads. */
  threads: number;
  vocab: number;
  layers: number;
  weightBytes: number;
  /** Whether it has a chat template. */
  chat: boolean;
  stopTokens: number[];
  maxNewTokens: number | null;
  /** Notices that are not errors, for example that there was no room to store the model. */
  notices: string[];
  /** Milliseconds per token on each backend, if the choice was measured this time. */
  measured?: { cpu: number; webgpu: number };
}

/** Memory and statistics of a model. */
export interface ModelStats {
  /** Memory of the WebAssembly module. */
  wasmBytes: number;
  weightBytes: number;
  /** GPU memory of weights, states and steps; 0 without a GPU. */
  deviceBytes: number;
  /** States kept so that prompts need not be computed again. */
  cacheBytes: number;
  cachedSnapshots: number;
  /** Prompt tokens that were reused, and computed. */
  reusedTokens: number;
  computedTokens: number;
}

/** A message of a conversation. Templates may know further fields. */
export interface Message {
  role: string;
  content: string;
  [field: string]: unknown;
}

/** Options for generating an answer. Those not given come from the model's own settings. */
export interface ChatOptions {
  /** Maximum number of tokens of the answer; by default the value in `generation_config.json`, or 2048. */
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
  /** Probability of excluding the most probable tokens, "XTC", and their minimum probability. */
  xtcProbability?: number;
  xtcThreshold?: number;
  /** Random seed; by default a new one each time. */
  seed?: number;
  /** Stop strings, in addition to those of `generation_config.json`. */
  stop?: string[];
  /** Stop tokens, in addition to the model's own. */
  stopTokens?: number[];
  /** Continues after the model's own stop tokens and stop strings. */
  ignoreEos?: boolean;
  /**
   * Maximum number of tokens drafted in a step from earlier occurrences of the same words, and verified together:
   * faster if a text quotes or repeats, with the same answer. 6 is usual; 0, the default, is off.
   */
  speculate?: number;
  /** Variables for the template. */
  variables?: Record<string, unknown>;
  /** Tools for the template. */
  tools?: unknown[];
  /** Name of the chat template to use, if the model has several. */
  template?: string;
  /** Ends the answer early; the part generated so far is kept. */
  signal?: AbortSignal;
  /** Number of prompt tokens computed so far. */
  onPrompt?: (progress: { done: number; total: number }) => void;
}

/** A piece of an answer. */
export interface Token {
  /** Its number in the vocabulary; -1 for text that was held back until the end. */
  id: number;
  /** What it adds to the text; may be empty. */
  text: string;
}

/** How an answer ended, with statistics. */
export interface Answer {
  text: string;
  /** Its tokens, including the stop token. */
  ids: number[];
  reason: 'stop-token' | 'stop-string' | 'max-tokens' | 'context-full' | 'stopped';
  promptTokens: number;
  /** Prompt tokens whose state was reused. */
  reusedTokens: number;
  /** Statistics of `speculate`: steps of the model, drafted tokens, accepted tokens. */
  speculation: { steps: number; drafted: number; accepted: number } | null;
  promptSeconds: number;
  seconds: number;
  /** Generation speed after the first token. */
  tokensPerSecond: number;
  /** Number of tokens that the session holds now, and size of its state in bytes. */
  position: number;
  stateBytes: number;
}

/** Contents of a session. */
export interface SessionStats {
  tokens: number;
  stateBytes: number;
}
