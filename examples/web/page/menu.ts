// A menu that opens from a button.

import { icon } from './icons.js';
import type { IconName } from './icons.js';
import { make } from './dom.js';

export interface Item {
  icon: IconName;
  text: string;
  act: () => void;
  /** Whether the action is destructive. */
  danger?: boolean;
}

/** Opens a menu below a button, or above it where there is more room. */
export function openMenu(button: HTMLElement, label: string, items: Item[]): void {
  const menu = make('div', 'menu');
  menu.role = 'menu';
  menu.ariaLabel = label;
  menu.popover = 'auto';
  for (const { icon: name, text, act, danger } of items) {
    const item = make('button', danger ? 'danger' : '', icon(name), text);
    item.type = 'button';
    item.role = 'menuitem';
    item.tabIndex = -1;
    item.onclick = () => {
      menu.hidePopover();
      act();
    };
    menu.append(item);
  }
  const entries = [...menu.children] as HTMLElement[];
  menu.onkeydown = (event) => {
    const at = entries.indexOf(document.activeElement as HTMLElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1 + entries.length, Home: 0, End: entries.length - 1 }[event.key];
    if (event.key === 'Tab') menu.hidePopover();
    // Escape closes only the menu, not the drawer, and doesn't stop the answer.
    if (event.key === 'Escape') {
      event.stopPropagation();
      event.preventDefault();
      menu.hidePopover();
    }
    if (to === undefined) return;
    event.preventDefault();
    entries[to % entries.length]?.focus();
  };
  menu.addEventListener('toggle', (event) => {
    if ((event as ToggleEvent).newState !== 'closed') return;
    if (menu.contains(document.activeElement) || document.activeElement === document.body) button.focus();
    button.ariaExpanded = 'false';
    menu.remove();
  });
  document.body.append(menu);
  menu.showPopover();
  button.ariaExpanded = 'true';
  const at = button.getBoundingClientRect();
  const { width, height } = menu.getBoundingClientRect();
  const below = at.bottom + 4;
  menu.style.left = `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`;
  menu.style.top = `${below + height <= innerHeight - 8 ? below : Math.max(8, at.top - height - 4)}px`;
  entries[0]?.focus();
}
