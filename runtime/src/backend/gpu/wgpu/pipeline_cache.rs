//! [`PipelineCache`]: what a driver keeps of compiled kernels, on disk. Most desktop drivers have a cache of their own; on phones
//! it is left to the program.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::super::target::lock;

/// Files beyond this are not read: no driver writes so much for our kernels.
const MOST_BYTES: u64 = 256 << 20;

/// A driver's cache with its file.
pub(super) struct PipelineCache {
    cache: wgpu::PipelineCache,
    path: PathBuf,
    /// What the file holds.
    held: Mutex<Option<Vec<u8>>>,
}

impl PipelineCache {
    /// What `folder` holds for this adapter, or an empty one. `None` where the adapter has no key for it.
    pub(super) fn open(
        device: &wgpu::Device,
        adapter: &wgpu::Adapter,
        folder: &Path,
    ) -> Option<Self> {
        let key = wgpu::util::pipeline_cache_key(&adapter.get_info())?;
        let path = folder.join(format!("{key}.bin"));
        let held = read(&path);
        let cache = super::trusted::pipeline_cache(device, held.as_deref());
        Some(Self { cache, path, held: Mutex::new(held) })
    }

    pub(super) fn handle(&self) -> &wgpu::PipelineCache {
        &self.cache
    }

    /// Writes what is new. A folder that can't be written costs the next start some time and nothing else.
    pub(super) fn write(&self) {
        let mut held = lock(&self.held);
        let data = self.cache.get_data();
        let Some(data) = data.filter(|data| held.as_ref() != Some(data)) else { return };
        match crate::files::cache_dir::write(&self.path, &data) {
            Ok(()) => *held = Some(data),
            Err(error) => log::debug!("{} was not written: {error}", self.path.display()),
        }
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let size = std::fs::metadata(path).ok()?.len();
    if size > MOST_BYTES {
        log::debug!("{} is not read: it has {size} bytes", path.display());
        return None;
    }
    crate::files::cache_dir::read(path)
}
