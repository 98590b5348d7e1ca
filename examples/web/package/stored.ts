// Models stored in the browser.

/** Models whose downloads are stored in the browser. */
export const storage = {
  /** Their addresses and sizes. */
  async list(): Promise<{ url: string; bytes: number }[]> {
    const found: { url: string; bytes: number }[] = [];
    for await (const folder of storedFolders()) {
      let [url, bytes] = ['', 0];
      for await (const entry of folder.values()) {
        if (entry.kind !== 'file') continue;
        const file = await (entry as FileSystemFileHandle).getFile();
        if (entry.name === 'url') url = await file.text();
        bytes += file.size;
      }
      if (url) found.push({ url, bytes });
    }
    return found;
  },

  /** Deletes a stored model. */
  async remove(url: string): Promise<void> {
    const root = await modelsFolder();
    for await (const folder of storedFolders()) {
      const handle = await folder.getFileHandle('url').catch(() => undefined);
      const stored = handle && await (await handle.getFile()).text();
      if (stored === url) await root?.removeEntry(folder.name, { recursive: true });
    }
  },
};

async function modelsFolder(): Promise<FileSystemDirectoryHandle | undefined> {
  try {
    const root = await navigator.storage.getDirectory();
    return await (await root.getDirectoryHandle('kinglet')).getDirectoryHandle('models');
  } catch {
    // Nothing was stored yet, or nothing can be.
    return undefined;
  }
}

async function* storedFolders(): AsyncGenerator<FileSystemDirectoryHandle> {
  const root = await modelsFolder();
  if (!root) return;
  for await (const entry of root.values()) {
    if (entry.kind === 'directory') yield entry as FileSystemDirectoryHandle;
  }
}
