// The panel for choosing a model: one that comes with the page, from an address, from files, or one stored in the
// browser.

import { storage } from './kinglet/index.js';
import type { ModelSource } from './kinglet/index.js';
import { byId, make, megabytes, textButton } from './dom.js';
import { engine } from './engine.js';
import { DEMOS, addressOf, keyOf, nameOf } from './names.js';
import { complain } from './notice.js';

async function listStored(): Promise<void> {
  const list = byId('stored', HTMLElement);
  const stored = await storage.list();
  list.replaceChildren(...stored.map(({ url, bytes }) => {
    const name = make('span', '', nameOf(url), make('small', '', megabytes(bytes)));
    const use = textButton(url === engine.key ? 'In use' : 'Use', '', () => choose(url, url));
    use.disabled = url === engine.key;
    use.ariaLabel = `Use ${nameOf(url)}`;
    const remove = textButton('Delete', '', () => void storage.remove(url).then(listStored).catch(complain));
    remove.ariaLabel = `Delete ${nameOf(url)}`;
    return make('li', '', name, use, remove);
  }));
  if (stored.length === 0) list.replaceChildren(make('li', 'hint', 'Nothing yet: models that you load are stored here and then need no network.'));
}

function choose(source: ModelSource, key: string): void {
  byId('picker', HTMLDialogElement).close();
  void engine.load(source, key);
}

function loadAddress(): void {
  const field = byId('url', HTMLInputElement);
  const href = addressOf(field.value);
  if (href) return choose(href, href);
  field.setCustomValidity('This is not an address. It looks like https://huggingface.co/owner/name, or owner/name.');
  field.reportValidity();
}

export function openPicker(): void {
  void listStored().catch(complain);
  for (const button of byId('demos', HTMLElement).querySelectorAll<HTMLElement>('button')) {
    button.ariaCurrent = String(button.dataset.key === engine.key);
  }
  byId('picker', HTMLDialogElement).showModal();
}

/** Closes a panel on a tap outside it. */
export function closeOutside(dialog: HTMLDialogElement): void {
  dialog.addEventListener('pointerdown', (event) => {
    if (event.target === dialog) dialog.close();
  });
}

export function setUpPicker(): void {
  byId('model', HTMLElement).onclick = openPicker;
  for (const { url, name, text } of DEMOS) {
    const href = new URL(url, document.baseURI).href;
    const button = textButton(name, '', () => choose(href, href));
    button.dataset.key = href;
    button.append(make('small', '', text));
    byId('demos', HTMLElement).append(button);
  }
  const field = byId('url', HTMLInputElement);
  byId('load-url', HTMLElement).onclick = loadAddress;
  field.oninput = () => field.setCustomValidity('');
  field.onkeydown = (event) => {
    if (event.key !== 'Enter' || event.isComposing) return;
    // The form's own button closes the panel.
    event.preventDefault();
    loadAddress();
  };
  for (const kind of ['folder', 'files']) {
    const given = byId(kind, HTMLInputElement);
    byId(`load-${kind}`, HTMLElement).onclick = () => given.click();
    given.onchange = () => {
      const files = [...given.files ?? []];
      given.value = '';
      if (files.length > 0) void keyOf(files).then((key) => choose(files, key)).catch(complain);
    };
  }
  closeOutside(byId('picker', HTMLDialogElement));
}
