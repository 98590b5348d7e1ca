// Messages beside the conversation: errors until they are dismissed, and notes that disappear.

import { KingletError } from './kinglet/index.js';
import { byId, iconButton, make, say, setText, show, textButton } from './dom.js';

/** An action offered with a message. */
export interface Offer {
  text: string;
  act: () => void;
}

/** Shows an error until it is dismissed, with an action and with what it prevented. */
export function complain(error: unknown, offer?: Offer, prevented = ''): void {
  if (error instanceof KingletError && error.code === 'aborted') return;
  setText('alert-text', prevented + (error instanceof Error ? error.message : String(error)));
  byId('alert', HTMLElement).dataset.code = error instanceof KingletError ? error.code : '';
  const retry = byId('retry', HTMLButtonElement);
  retry.hidden = !offer;
  retry.textContent = offer?.text ?? '';
  retry.onclick = () => {
    quiet();
    offer?.act();
  };
  show('alert', true);
}

/** Removes the error. */
export function quiet(): void {
  show('alert', false);
}

/** How long a note stays, in milliseconds; one with an action stays longer. */
const STAYS = 5000;
const STAYS_WITH_OFFER = 12_000;

/** Shows a note for a while. `over` is called when it disappears without its action being used. */
export function note(text: string, offer?: Offer, over?: () => void): void {
  const element = make('div', 'toast', make('span', '', text));
  let timer = 0;
  const go = (taken: boolean) => {
    clearTimeout(timer);
    if (!element.isConnected) return;
    element.remove();
    if (!taken) over?.();
  };
  if (offer) {
    element.append(textButton(offer.text, 'link', () => {
      go(true);
      offer.act();
    }));
  }
  element.append(iconButton('close', 'Dismiss', '', () => go(false)));
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => go(false), offer ? STAYS_WITH_OFFER : STAYS);
  };
  // It stays while the pointer or the focus is on it.
  element.onpointerenter = element.onfocus = () => clearTimeout(timer);
  element.addEventListener('focusin', () => clearTimeout(timer));
  element.addEventListener('focusout', wait);
  element.onpointerleave = wait;
  byId('toasts', HTMLElement).append(element);
  say(offer ? `${text} ${offer.text}?` : text);
  wait();
}
