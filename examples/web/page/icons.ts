// The page's icons: strokes in a 24 by 24 box.

const PATHS = {
  menu: 'M4 7h16M4 12h16M4 17h16',
  plus: 'M12 5v14M5 12h14',
  edit: 'M4 20l1-4.5L16 4.5l3.5 3.5L8.5 19z M14 6.5l3.5 3.5',
  copy: 'M9 9h10v11H9z M15 9V4H5v11h4',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  again: 'M19.5 8A8 8 0 1 0 20 13 M20 3.5V8h-4.5',
  left: 'M14.5 6l-6 6 6 6',
  right: 'M9.5 6l6 6-6 6',
  down: 'M6 9.5l6 6 6-6',
  close: 'M6 6l12 12M18 6L6 18',
  settings: 'M4 7h9M19 7h1M4 17h1M11 17h9 M13.5 7a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0 M5.5 17a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0',
  trash: 'M4 7h16M9 7V4h6v3M6.5 7l1 13h9l1-13M10 11v5M14 11v5',
  more: 'M5 12h.01M12 12h.01M19 12h.01',
  theme: 'M12 4a8 8 0 1 0 0 16z M12 4a8 8 0 0 1 0 16',
  send: 'M12 19V5M6 11l6-6 6 6',
  stop: 'M7 7h10v10H7z',
  search: 'M4.5 10.5a6 6 0 1 0 12 0a6 6 0 1 0-12 0M15 15l5 5',
  save: 'M12 4v11M7 10.5l5 5 5-5M5 20h14',
  load: 'M12 15.5V4M7 8.5l5-5 5 5M5 20h14',
  file: 'M6 3.5h8l4 4v13H6z M14 3.5V8h4',
} as const;

export type IconName = keyof typeof PATHS;

/** An icon, hidden from screen readers. */
export function icon(name: IconName): SVGSVGElement {
  const NS = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(NS, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS(NS, 'path');
  path.setAttribute('d', PATHS[name]);
  svg.append(path);
  return svg;
}

/** Inserts icons into elements with `data-icon`. */
export function placeIcons(): void {
  for (const element of document.querySelectorAll<HTMLElement>('[data-icon]')) {
    const name = element.dataset.icon as IconName;
    if (name in PATHS) element.prepend(icon(name));
  }
}
