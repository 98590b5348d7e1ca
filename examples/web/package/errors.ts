// A single error type; `code` tells the kind.

/**
 * The kind of error: `aborted` by a signal; `network`: a download failed; `not-found`: a required file does not exist;
 * `quota`: the browser's storage is full; `storage`: it can't be used; `integrity`: a stored file is damaged; `file`,
 * `config`, `weights`, `text`: a model's file is broken or not supported; `saved-state`: a saved session is damaged or
 * belongs to another model; `memory`, `device-memory`: out of memory; `no-webgpu`, `device`, `device-lost`: the GPU;
 * `argument`: an invalid value; `busy`; `context-full`; `disposed`; `crashed`: the worker has ended; `unsupported`: the
 * browser lacks a feature; `engine`: anything else.
 */
export type ErrorCode =
  | 'aborted' | 'network' | 'not-found' | 'quota' | 'storage' | 'integrity' | 'file' | 'config' | 'weights' | 'text' | 'saved-state'
  | 'memory' | 'device-memory' | 'no-webgpu' | 'device' | 'device-lost' | 'argument' | 'busy' | 'context-full' | 'disposed' | 'crashed'
  | 'unsupported' | 'engine';

/** An error of Kinglet. */
export class KingletError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = code === 'aborted' ? 'AbortError' : 'KingletError';
    this.code = code;
  }
}

/** Converts anything thrown to plain data that can be posted. */
export function plain(thrown: unknown): { name: string; message: string; code: string } {
  if (thrown instanceof Error) {
    const code = (thrown as { code?: unknown }).code;
    return { name: thrown.name, message: thrown.message, code: typeof code === 'string' ? code : 'engine' };
  }
  return { name: 'Error', message: String(thrown), code: 'engine' };
}
