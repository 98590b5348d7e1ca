// Names and keys of models. A model's key is its address, or, for the user's own files, its name and a hash of its
// contents: `files:NAME#HASH`.

import { megabytes } from './dom.js';

/** Models served with the page. */
export const DEMOS = [
  { url: 'models/hybrid/', name: 'Storyteller, 15M', text: 'Mamba-2, attention and experts; 30 MB. Tells stories for children.' },
  { url: 'models/xlstm/', name: 'Storyteller xLSTM, 5M', text: 'Only mLSTM: its state never grows; 10 MB.' },
];

/** Prefix of the key of a model that can't be reloaded automatically. */
const LOCAL = 'files:';

export function isLocal(key: string): boolean {
  return key.startsWith(LOCAL);
}

export function isDemo(key: string): boolean {
  return DEMOS.some(({ url }) => new URL(url, document.baseURI).href === key);
}

/** The name of a model. */
export function nameOf(key: string): string {
  const demo = DEMOS.find(({ url }) => new URL(url, document.baseURI).href === key);
  if (demo) return demo.name;
  if (isLocal(key)) return key.slice(LOCAL.length).replace(/#[0-9a-f]+$/, '') || 'your own model';
  if (!URL.canParse(key)) return key || 'a model';
  const [path = ''] = new URL(key).pathname.split(/\/(?:resolve|tree|blob)\//);
  const parts = path.split('/').filter(Boolean).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  return parts.slice(-2).join('/') || key;
}

/** The address that the user means: of a folder, a page of the hub, or `owner/name` there. */
export function addressOf(typed: string): string | undefined {
  let text = typed.trim();
  if (!text || /\s/.test(text)) return undefined;
  if (/^[\w-][\w.-]*\/[\w.-]+$/.test(text) && !/^[\w-]+(\.[\w-]+)+\.?\//.test(text)) text = `https://huggingface.co/${text}`;
  else if (/^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(\/|$)/.test(text)) text = `http://${text}`;
  else if (/^[\w-]+(\.[\w-]+)+(:\d+)?(\/|$)/.test(text)) text = `https://${text}`;
  try {
    const url = new URL(text, document.baseURI);
    return url.protocol === 'http:' || url.protocol === 'https:' ? url.href : undefined;
  } catch {
    return undefined;
  }
}

/** The key of a model in the user's own files. */
export async function keyOf(files: readonly File[]): Promise<string> {
  return `${LOCAL}${await localName(files)}#${await fingerprint(files)}`;
}

async function localName(files: readonly File[]): Promise<string> {
  const [first] = files;
  const folder = first?.webkitRelativePath.split('/')[0];
  // A snapshot's folder in the hub's cache is named by a meaningless hash.
  const cached = folder && /^models--(.+?)--(.+)$/.exec(folder);
  if (cached) return `${cached[1]}/${cached[2]}`;
  if (folder && !/^[0-9a-f]{20,}$/.test(folder)) return folder;
  const archive = files.length === 1 && first && /^(.+)\.tar$/i.exec(first.name)?.[1];
  if (archive) return archive;
  const weights = files.filter(({ name }) => name.endsWith('.safetensors')).reduce((sum, { size }) => sum + size, 0);
  try {
    const config = JSON.parse(await named(files, 'config.json')?.text() ?? '{}') as Record<string, unknown>;
    const origin = typeof config._name_or_path === 'string' ? config._name_or_path.replace(/[/\\]+$/, '') : '';
    const parts = origin.split(/[/\\]/).filter((part) => part && part !== '.' && part !== '..');
    const shown = /^([/\\.~]|[A-Za-z]:)/.test(origin) ? parts.slice(-1) : parts.slice(-2);
    if (shown.length > 0) return shown.join('/');
    if (typeof config.model_type === 'string') return `${config.model_type}, ${megabytes(weights)}`;
  } catch {
    // Errors are reported when it is loaded.
  }
  return `${files.length} ${files.length === 1 ? 'file' : 'files'}, ${megabytes(weights)}`;
}

/** Of files with the same name, the topmost one, as in the package. */
function named(files: readonly File[], name: string): File | undefined {
  const depth = ({ webkitRelativePath }: File) => webkitRelativePath.split('/').length;
  return files.filter((file) => file.name === name).sort((a, b) => depth(a) - depth(b))[0];
}

/** A hash of the config, and of the sizes, starts and ends of large files, in which other weights differ. */
async function fingerprint(files: readonly File[]): Promise<string> {
  const EDGE = 65_536;
  const parts: BlobPart[] = [await named(files, 'config.json')?.arrayBuffer() ?? ''];
  const large = files.filter(({ name }) => /\.(safetensors|tar)$|^tokenizer\.json$/i.test(name));
  for (const file of large.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    parts.push(`${file.name} ${file.size}`, file.slice(0, EDGE), file.slice(Math.max(EDGE, file.size - EDGE)));
  }
  const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
  if (globalThis.crypto.subtle) {
    const hash = new Uint8Array(await globalThis.crypto.subtle.digest('SHA-256', bytes));
    return [...hash.subarray(0, 6)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  }
  // FNV-1a, since insecure pages have no other hash.
  const hash = bytes.reduce((hash, byte) => Math.imul(hash ^ byte, 0x01000193) >>> 0, 0x811c9dc5);
  return hash.toString(16).padStart(8, '0');
}
