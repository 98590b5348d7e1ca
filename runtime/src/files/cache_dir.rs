//! Cache files: written atomically, with a hash that detects damage. Damaged files count as
//! missing.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::files::fnv1a::Fnv1a;

/// Writes `bytes` to `path`, creating its folder if needed.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    crate::files::atomic_file::write(path, |file| {
        file.write_all(&Fnv1a::of(bytes).to_le_bytes())?;
        file.write_all(bytes)
    })
}

/// Reads what [`write`] wrote. `None` if the file is missing or damaged.
pub(crate) fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    let (stated, data) = bytes.split_first_chunk::<8>()?;
    if u64::from_le_bytes(*stated) != Fnv1a::of(data) {
        log::debug!("ignoring {}: it is damaged", path.display());
        return None;
    }
    bytes.drain(..8);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_not() {
        let folder = std::env::temp_dir().join(format!("kinglet-cache-{}", std::process::id()));
        let path = folder.join("deeper").join("file");
        assert_eq!(read(&path), None);
        write(&path, b"something").unwrap();
        assert_eq!(read(&path).as_deref(), Some(&b"something"[..]));
        let mut damaged = fs::read(&path).unwrap();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(read(&path), None);
        fs::write(&path, b"short").unwrap();
        assert_eq!(read(&path), None);
        fs::remove_dir_all(&folder).unwrap();
    }
}
