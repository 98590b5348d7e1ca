// Messages between the page's side and the worker's side.

/** A file of a model that the page passes on. */
export interface NamedFile {
  name: string;
  file: File;
}

/** A model's source, in a form that can be posted. */
export type PostedSource =
  | { kind: 'url'; url: string }
  | { kind: 'files'; files: NamedFile[] };

/** Calls, each answered by a `Reply` with the same `id`. */
export interface Call {
  id: number;
  method: string;
  args: unknown[];
}

/** Ends a call. */
export type Reply =
  | { id: number; ok: true; value: unknown }
  | { id: number; ok: false; error: { name: string; message: string; code: string } };

/** An event during a call. */
export interface Happening {
  id: number;
  event: string;
  data: unknown;
}

/** Stops call `stop` early. */
export interface Stop {
  stop: number;
}

/** The only subfolder of a model: additional chat templates. */
export const TEMPLATES = 'additional_chat_templates';
