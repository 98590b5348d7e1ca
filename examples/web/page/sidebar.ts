// The list of conversations: open, search, rename, delete and restore, export and import. On a phone it is a drawer.

import { byId, download, iconButton, make, say, setText, show } from './dom.js';
import { engine } from './engine.js';
import { fileName, markdown, readFile, write } from './exchange.js';
import { openMenu } from './menu.js';
import { nameOf } from './names.js';
import { complain, note } from './notice.js';
import { talk } from './talk.js';
import { find } from './tree.js';
import type { Conversation } from './tree.js';

/** The conversation being renamed. */
let naming = '';
/** Whether the list is next to the conversation. */
const wide = matchMedia('(min-width: 50rem)');

/** Shows the conversations that match the search. */
export function listConversations(): void {
  const list = byId('list', HTMLElement);
  // Don't remove a name field in use.
  if (naming && list.querySelector('input')) return;
  const query = byId('search', HTMLInputElement).value.trim();
  const all = talk.conversations.list();
  const found = all.flatMap((item) => {
    const where = find(item, query);
    return where === undefined ? [] : [row(item, query ? where : '')];
  });
  const focused = document.activeElement?.closest('#list li')?.getAttribute('data-id');
  const control = document.activeElement?.classList.contains('more') ? '.more' : '.open';
  list.replaceChildren(...found);
  if (focused) list.querySelector<HTMLElement>(`li[data-id="${CSS.escape(focused)}"] ${control}`)?.focus();
  setText('list-empty', all.length === 0 ? 'What you talk about appears here.' : found.length === 0 ? 'Nothing found.' : '');
  byId('search', HTMLElement).hidden = all.length === 0;
  byId('export-all', HTMLButtonElement).disabled = all.length === 0;
}

function row(item: Conversation, where: string): HTMLElement {
  const title = item.title || 'Untitled';
  const element = make('li');
  element.dataset.id = item.id;
  const open = make('button', 'open', make('span', 'title', title), ...(where ? [make('small', '', where)] : []));
  open.type = 'button';
  open.title = title;
  if (item.id === talk.conversation.id) open.ariaCurrent = 'true';
  open.onclick = () => {
    drawer(false);
    // On a phone this would open the keyboard.
    void talk.open(item).then(() => wide.matches && byId('input', HTMLElement).focus());
  };
  const more = iconButton('more', `More for “${title}”`, 'more', (button) => openMenu(button, title, [
    { icon: 'edit', text: 'Rename', act: () => rename(element, item) },
    { icon: 'file', text: 'Export as Markdown', act: () => download(fileName(title, 'md'), 'text/markdown', markdown(item, nameOf)) },
    { icon: 'save', text: 'Export as JSON', act: () => download(fileName(title, 'json'), 'application/json', write([item])) },
    { icon: 'trash', text: 'Delete', danger: true, act: () => void remove(item) },
  ]));
  more.ariaHasPopup = 'menu';
  element.append(open, more);
  return element;
}

function rename(element: HTMLElement, item: Conversation): void {
  const field = make('input', 'rename');
  field.value = item.title;
  field.ariaLabel = 'Name of the conversation';
  naming = item.id;
  let over = false;
  const leave = (save: boolean) => {
    if (over) return;
    over = true;
    naming = '';
    const name = field.value.trim();
    if (save && name && name !== item.title) {
      item.title = name;
      item.named = Date.now();
      void talk.conversations.keep(item).catch(complain);
    }
    field.remove();
    listConversations();
    byId('list', HTMLElement).querySelector<HTMLElement>(`li[data-id="${CSS.escape(item.id)}"] .more`)?.focus();
  };
  field.onkeydown = (event) => {
    if (event.isComposing || (event.key !== 'Enter' && event.key !== 'Escape')) return;
    event.preventDefault();
    event.stopPropagation();
    leave(event.key === 'Enter');
  };
  field.onblur = () => leave(true);
  element.replaceChildren(field);
  field.select();
}

async function remove(item: Conversation): Promise<void> {
  const here = item.id === talk.conversation.id;
  try {
    // An answer in progress ends first, and is included.
    if (here) {
      talk.stop();
      await engine.busy;
    }
    const removed = talk.conversations.remove(item);
    if (here) await talk.open(talk.fresh());
    await removed;
  } catch (error) {
    complain(error);
  }
  listConversations();
  byId('new', HTMLElement).focus();
  const back = async () => {
    await talk.conversations.restore(item);
    if (here) await talk.open(item);
    listConversations();
  };
  note(
    `“${item.title || 'Untitled'}” was deleted.`,
    { text: 'Undo', act: () => void back().catch(complain) },
    () => void talk.conversations.purge(item.id).catch(complain),
  );
}

async function importFrom(files: readonly File[]): Promise<void> {
  let [count, last]: [number, Conversation | undefined] = [0, undefined];
  for (const file of files) {
    try {
      for (const conversation of readFile(await file.text())) {
        last = await talk.conversations.take(conversation);
        count++;
      }
    } catch (error) {
      complain(`${file.name}: ${error instanceof Error ? error.message : error}`);
    }
  }
  if (!last) return;
  note(count === 1 ? `Imported “${last.title}”.` : `Imported ${count} conversations.`);
  drawer(false);
  await talk.open(last);
}

/** Shows or hides the list, if there is no room for it next to the conversation. */
export function drawer(open: boolean): void {
  const button = byId('menu', HTMLElement);
  const was = button.ariaExpanded === 'true';
  if (was === open) return;
  byId('side', HTMLElement).classList.toggle('open', open);
  button.ariaExpanded = String(open);
  show('scrim', open);
  byId('main', HTMLElement).inert = open;
  // Focus what has appeared, and return the focus afterwards.
  if (open) byId('new', HTMLElement).focus();
  else button.focus();
}

export function drawerIsOpen(): boolean {
  return byId('menu', HTMLElement).ariaExpanded === 'true';
}

export function setUpSidebar(): void {
  byId('new', HTMLElement).onclick = () => {
    drawer(false);
    void talk.open(talk.fresh()).then(() => byId('input', HTMLElement).focus());
  };
  byId('menu', HTMLElement).onclick = () => drawer(!drawerIsOpen());
  byId('scrim', HTMLElement).onclick = () => drawer(false);
  wide.onchange = () => drawer(false);
  const search = byId('search', HTMLInputElement);
  search.oninput = () => {
    listConversations();
    if (search.value.trim()) say(`${byId('list', HTMLElement).children.length} found`);
  };
  search.onkeydown = (event) => {
    if (event.key !== 'Escape' || search.value === '') return;
    event.preventDefault();
    event.stopPropagation();
    search.value = '';
    listConversations();
  };
  const field = byId('import-file', HTMLInputElement);
  byId('import', HTMLElement).onclick = () => field.click();
  field.onchange = () => {
    const files = [...field.files ?? []];
    field.value = '';
    void importFrom(files);
  };
  byId('export-all', HTMLElement).onclick = () => {
    const day = new Date().toISOString().slice(0, 10);
    download(`kinglet-conversations-${day}.json`, 'application/json', write(talk.conversations.list()));
  };
}
