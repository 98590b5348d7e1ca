// Data that must survive if the page is closed before a file is written: questions without an answer, and drafts, which
// belong to one tab. They are in storage that is written synchronously. Each conversation has its own entries, since
// several may be open in several tabs.

import type { Conversation, Turn } from './tree.js';

const ASKED = 'asked.';
const DRAFT = 'draft.';

/** A question, with what is needed to start its conversation. */
interface Asked {
  turn: Turn;
  title: string;
  system: string;
  model: string;
}

function put(key: string, value: string | undefined, storage: 'localStorage' | 'sessionStorage' = 'localStorage'): void {
  try {
    if (value === undefined) globalThis[storage].removeItem(key);
    else globalThis[storage].setItem(key, value);
  } catch {
    // Storage is full or forbidden: then only the file keeps it.
  }
}

function get(key: string, storage: 'localStorage' | 'sessionStorage' = 'localStorage'): string | null {
  try {
    return globalThis[storage].getItem(key);
  } catch {
    return null;
  }
}

/** Stores a question before its file is written. */
export function asked({ id, title, system, model }: Conversation, turn: Turn): void {
  put(ASKED + id, JSON.stringify({ turn, title, system, model } satisfies Asked));
}

/** Removes a question once it is in a file. */
export function settled(id: string, turn: Turn): void {
  const entry = waiting(id)?.turn;
  // If it was reworded meanwhile, it is not.
  if (entry?.id === turn.id && entry.content === turn.content) put(ASKED + id, undefined);
}

export function forget(id: string): void {
  put(ASKED + id, undefined);
  put(DRAFT + id, undefined, 'sessionStorage');
}

/** A question that may not have reached its file. */
function waiting(id: string): Asked | undefined {
  try {
    const found = JSON.parse(get(ASKED + id) ?? 'null') as Asked | null;
    const turn = found?.turn;
    return typeof turn?.id === 'string' && typeof turn.content === 'string' && typeof turn.parent === 'string' ? found ?? undefined : undefined;
  } catch {
    return undefined;
  }
}

/** All questions that may not be in files yet, by conversation. */
export function allAsked(): [string, Asked][] {
  const found: [string, Asked][] = [];
  try {
    // The form of an earlier version of this page.
    const [id, content] = JSON.parse(localStorage.getItem('asked') ?? '[]') as unknown[];
    if (typeof id === 'string' && typeof content === 'string') {
      found.push([id, { turn: { id: `${id}.asked`, parent: OLD, role: 'user', content, at: Date.now() }, title: '', system: '', model: '' }]);
    }
    for (const key of Object.keys(localStorage)) {
      if (!key.startsWith(ASKED)) continue;
      const id = key.slice(ASKED.length);
      const entry = waiting(id);
      if (entry) found.push([id, entry]);
    }
  } catch {
    // No storage.
  }
  return found;
}

/** The parent of an earlier version's question: the last message. */
export const OLD = '*';

/** Removes the earlier version's entry once it is converted. */
export function forgetOld(): void {
  put('asked', undefined);
}

export function draft(id: string): string {
  return get(DRAFT + id, 'sessionStorage') ?? '';
}

export function keepDraft(id: string, text: string): void {
  put(DRAFT + id, text || undefined, 'sessionStorage');
}
