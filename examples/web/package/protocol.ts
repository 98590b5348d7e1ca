// What the page's side and the worker's side say to one another.

/** A file of a model that the page's side hands over. */
export interface NamedFile {
  name: string;
  file: File;
}

/** Where a model comes from, in a form that can be posted. */
export type PostedSource =
  | { kind: 'url'; url: string }
  | { kind: 'files'; files: NamedFile[] };

/** Calls, each answered by `Reply` with the same `id`. */
export interface Call {
  id: number;
  method: string;
  args: unknown[];
}

/** What ends a call. */
export type Reply =
  | { id: number; ok: true; value: unknown }
  | { id: number; ok: false; error: { name: string; message: string; code: string } };

/** What happens while a call is under way. */
export interface Happening {
  id: number;
  event: string;
  data: unknown;
}

/** Ends call `stop` early. */
export interface Stop {
  stop: number;
}

/** The one folder inside a model's: chat templates besides the usual one. */
export const TEMPLATES = 'additional_chat_templates';
