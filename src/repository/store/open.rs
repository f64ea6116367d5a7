//! The store behind a URL.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
};

use stillpoint_contract::{Clock, Entropy, Error, ErrorKind, Result, code};

use super::{
    LocalStore, MemoryStore, RealFs, Requests, SingleWriter, Store, Writers, counted::Counted,
};

/// How to reach a store.
#[derive(Clone, Default)]
pub struct StoreOptions {
    /// Credentials, endpoints and the like, named as in the environment: `AWS_REGION`,
    /// `AZURE_STORAGE_ACCOUNT_KEY`, `GOOGLE_APPLICATION_CREDENTIALS`. Unknown names are ignored.
    pub values: BTreeMap<String, String>,
    /// How many writers share the store. [`Writers::Single`] where [`probe`](super::probe) found
    /// that the store ignores conditions.
    pub writers: Writers,
    /// Where requests are counted, if anywhere.
    pub requests: Option<Arc<Requests>>,
}

/// Without the values: they are secrets.
impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreOptions")
            .field("values", &self.values.keys())
            .field("writers", &self.writers)
            .field("requests", &self.requests)
            .finish()
    }
}

const SCHEMES: &str = "a plain path, file:, s3:, az:, gs:";

/// Opens the store that a plain path or a URL names. Nothing is written, and no server asked.
///
/// `file:///path` (percent-encoded), `s3://bucket/prefix`, `az://container/prefix` (or `azure:`),
/// `gs://bucket/prefix`, and, for tests, `memory:name`, which lives as long as the process.
/// Anything without a scheme is a path.
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid) for a URL that cannot be understood, with
/// [`UNKNOWN_SCHEME`](code::UNKNOWN_SCHEME) for a scheme we do not know;
/// [`Config`](ErrorKind::Config) when the options do not suffice.
pub async fn open(
    url: &str,
    options: &StoreOptions,
    clock: &dyn Clock,
    entropy: Arc<dyn Entropy>,
) -> Result<Arc<dyn Store>> {
    let store = uncounted(url, options, clock, entropy).await?;
    Ok(match &options.requests {
        Some(requests) => Arc::new(Counted::new(store, Arc::clone(requests))),
        None => store,
    })
}

async fn uncounted(
    url: &str,
    options: &StoreOptions,
    clock: &dyn Clock,
    entropy: Arc<dyn Entropy>,
) -> Result<Arc<dyn Store>> {
    let (scheme, rest) = split(url);
    match scheme {
        None => local(Path::new(url), options, clock, entropy).await,
        Some("file") => local(&file_path(url, rest)?, options, clock, entropy).await,
        Some("memory") => Ok(memory(rest)),
        #[cfg(feature = "cloud")]
        Some("s3" | "az" | "azure" | "gs") => {
            let store = super::CloudStore::open(url, options)?;
            Ok(guarded(store, options.writers))
        }
        Some(scheme) => {
            // The rest may hold a password.
            Err(Error::new(ErrorKind::Invalid, code::UNKNOWN_SCHEME, "open the repository")
                .with("scheme", format!("{scheme}:"))
                .with("known", SCHEMES)
                .next("write ./ before it if this is the path of a directory"))
        }
    }
}

/// Splits a URL at its scheme; a path has none.
fn split(url: &str) -> (Option<&str>, &str) {
    let Some((scheme, rest)) = url.split_once(':') else { return (None, url) };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    // `sftp:host` would else make a directory of that name. One letter alone is no scheme.
    let looks_so = scheme.len() > 1
        && scheme.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '+');
    match rest.strip_prefix("//") {
        Some(rest) if is_scheme => (Some(scheme), rest),
        None if is_scheme && looks_so => (Some(scheme), rest),
        _ => (None, url),
    }
}

async fn local(
    root: &Path,
    options: &StoreOptions,
    clock: &dyn Clock,
    entropy: Arc<dyn Entropy>,
) -> Result<Arc<dyn Store>> {
    let store = LocalStore::open(RealFs, root, options.writers, clock, entropy).await?;
    Ok(guarded(store, options.writers))
}

fn guarded(store: impl Store + 'static, writers: Writers) -> Arc<dyn Store> {
    match writers {
        Writers::Several => Arc::new(store),
        Writers::Single => Arc::new(SingleWriter::new(store)),
    }
}

/// The path in a `file:` URL.
///
/// Source: RFC 8089, section 2: the host is empty or `localhost`.
fn file_path(url: &str, rest: &str) -> Result<PathBuf> {
    let bad = |why| Error::new(ErrorKind::Invalid, code::USAGE, format!("open {url}")).why(why);
    let path = rest.strip_prefix("localhost").filter(|p| p.starts_with('/')).unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(bad("a file: URL names an absolute path, as in file:///backup/repo"));
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        decoded.push(match byte {
            b'%' => match (digit(bytes.next()), digit(bytes.next())) {
                (Some(high), Some(low)) if high + low > 0 => (high * 16 + low) as u8,
                _ => return Err(bad("a % in a URL is followed by two hexadecimal digits")),
            },
            plain => plain,
        });
    }
    Ok(PathBuf::from(OsString::from_vec(decoded)))
}

/// The store in memory that this process calls by `name`.
fn memory(name: &str) -> Arc<dyn Store> {
    static STORES: LazyLock<Mutex<BTreeMap<String, Arc<MemoryStore>>>> =
        LazyLock::new(Mutex::default);
    let mut stores = STORES.lock().expect("no holder of this lock can panic");
    let store: &Arc<MemoryStore> = stores.entry(name.to_owned()).or_default();
    Arc::clone(store) as _
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_told_from_paths() {
        for (url, scheme) in [
            ("/backup", None),
            ("a b/ä:c", None),
            ("c:d", None),
            ("ftp://host/x", Some("ftp")),
            ("s3://bucket/x", Some("s3")),
            ("s3:bucket", Some("s3")),
            ("file:/x", Some("file")),
            ("sftp:host", Some("sftp")),
            ("./sftp:host", None),
            ("Backup:2026", None),
            ("memory:x", Some("memory")),
        ] {
            assert_eq!(split(url).0, scheme, "{url}");
        }
    }

    #[test]
    fn file_urls_are_decoded_as_bytes() {
        let path = |rest| file_path("file:x", rest).map(PathBuf::into_os_string);
        assert_eq!(path("/a%20b/%C3%A4").unwrap(), "/a b/ä");
        assert_eq!(path("localhost/a").unwrap(), "/a");
        for bad in ["host/a", "", "/%", "/%2", "/%zz", "/%00"] {
            assert_eq!(path(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }
}
