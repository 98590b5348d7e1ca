// Elements of the page: found by their ids, and those that show messages.

/** The element with this id, which the page has. */
export function byId<T extends HTMLElement>(id: string, type: abstract new (...args: never[]) => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`the page lacks #${id}`);
  return element;
}

export function setText(id: string, text: string): void {
  byId(id, HTMLElement).textContent = text;
}

export function show(id: string, shown: boolean): void {
  byId(id, HTMLElement).hidden = !shown;
}

export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

/** A message in the log. */
export interface Shown {
  element: HTMLElement;
  setText(text: string): void;
  remark(text: string): void;
  busy(busy: boolean): void;
  remove(): void;
}

/** What can be done with a message. */
export interface Actions {
  regenerate: (() => void) | undefined;
  copy: () => void;
  /** Called when it has grown. */
  follow: () => void;
}

/** An element for a message. What it says is text, whatever it looks like. */
export function message(role: string, text: string, { regenerate, copy, follow }: Actions): Shown {
  const element = document.createElement('article');
  element.className = role;
  const header = document.createElement('header');
  const who = document.createElement('h3');
  who.textContent = role === 'user' ? 'You' : role === 'assistant' ? 'Model' : role;
  header.append(who);
  const button = (label: string, action: () => void) => {
    const made = document.createElement('button');
    made.type = 'button';
    made.textContent = label;
    made.className = label.toLowerCase();
    made.onclick = action;
    header.append(made);
  };
  button('Copy', copy);
  if (regenerate) button('Regenerate', regenerate);
  const body = document.createElement('div');
  body.className = 'text';
  body.textContent = text;
  const remark = document.createElement('div');
  remark.className = 'remark';
  element.append(header, body, remark);
  return {
    element,
    setText: (now) => {
      body.textContent = now;
      follow();
    },
    remark: (now) => (remark.textContent = now && `— ${now}`),
    busy: (busy) => {
      element.classList.toggle('busy', busy);
      header.querySelectorAll('button').forEach((made) => (made.disabled = busy));
    },
    remove: () => element.remove(),
  };
}
