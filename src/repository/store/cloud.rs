//! Objects in S3, Azure Blob Storage or Google Cloud Storage.

use std::{collections::BTreeMap, ops::Range, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, RetryConfig,
    aws::AmazonS3Builder, azure::MicrosoftAzureBuilder, gcp::GoogleCloudStorageBuilder, path::Path,
};
use stillpoint_contract::{Error, ErrorKind, Result, code};
use url::{Host, Url};

use super::{
    Deleted, Key, Listed, Put, Store, StoreOptions, Writers,
    object::{Listing, longer_than},
};

/// For one request; the longest, a 32 MiB pack, needs 0.3 MB/s.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const RETRIES_MAX: usize = 6;
/// No retry begins later than this after the first attempt.
const RETRY_TIMEOUT: Duration = Duration::from_mins(1);

/// Where a request may go in clear text if the host is this machine.
const ENDPOINTS: [&str; 6] = [
    "aws_endpoint",
    "aws_endpoint_url",
    "aws_endpoint_url_s3",
    "azure_endpoint",
    "azure_storage_endpoint",
    "google_base_url",
];

/// A bucket or container, or a prefix in one.
///
/// `create` sends the service's own condition (`If-None-Match: *`, or `ifGenerationMatch=0`), and
/// no condition at all for [`Writers::Single`]. Requests are retried a few times where that is
/// safe, and every one ends: after 120 s by itself, after about three minutes with its retries.
///
/// Over TLS, S3 payloads are not hashed a second time for the signature.
#[derive(Debug)]
pub struct CloudStore {
    service: Arc<dyn ObjectStore>,
    /// Empty, or without slashes at its ends.
    root: String,
    location: String,
    writers: Writers,
}

impl CloudStore {
    /// The store at `s3://bucket/prefix`, `az://container/prefix`, `azure://container/prefix` or
    /// `gs://bucket/prefix`. No request is sent.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for another URL; [`Config`](ErrorKind::Config) when the
    /// options do not suffice, or would send secrets in clear text to another machine.
    pub fn open(url: &str, options: &StoreOptions) -> Result<Self> {
        let bad = |why| Error::new(ErrorKind::Invalid, code::USAGE, format!("open {url}")).why(why);
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| bad("a URL goes scheme://bucket/prefix"))?;
        let (bucket, root) = rest.split_once('/').unwrap_or((rest, ""));
        let root = root.trim_matches('/').to_owned();
        if bucket.is_empty() || bucket.contains(['@', ':', '?']) || Path::parse(&root).is_err() {
            return Err(bad("a URL goes scheme://bucket/prefix, without anything else"));
        }
        let values = &options.values;
        let client = client(values).map_err(|error| error.during(format!("open {url}")))?;
        let service: Result<Arc<dyn ObjectStore>, object_store::Error> = match scheme {
            "s3" => s3(bucket, values, client).build().map(|s| Arc::new(s) as _),
            "az" | "azure" => azure(bucket, values, client).build().map(|s| Arc::new(s) as _),
            "gs" => google(bucket, values, client).build().map(|s| Arc::new(s) as _),
            _ => return Err(bad("the scheme is none of s3, az, azure, gs")),
        };
        let service = service.map_err(|cause| {
            Error::new(ErrorKind::Config, code::STORE_DENIED, format!("open {url}"))
                .why("the credentials or the settings of the store do not suffice")
                .caused_by(cause.to_string())
        })?;
        Ok(Self { service, root, location: url.to_owned(), writers: options.writers })
    }

    fn path(&self, key: &str) -> Result<Path> {
        let separator = if self.root.is_empty() || key.is_empty() { "" } else { "/" };
        Path::parse(format!("{}{separator}{key}", self.root))
            .map_err(|cause| Error::bug("name a cloud object").with("name", key).caused_by(cause))
    }

    /// The length of an object, or `None` when there is none.
    async fn size_bytes(&self, key: &Key) -> Result<Option<u64>> {
        match self.service.head(&self.path(key.as_str())?).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(cause) => Err(failure(&cause, format!("look for {key}"))),
        }
    }

    async fn get(&self, key: &Key, range: Option<GetRange>) -> GetOutcome {
        let path = self.path(key.as_str()).map_err(GetError::Ours)?;
        match self.service.get_opts(&path, GetOptions { range, ..GetOptions::default() }).await {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(cause) => Err(GetError::Theirs(cause)),
        }
    }
}

type GetOutcome = Result<Option<object_store::GetResult>, GetError>;

enum GetError {
    Ours(Error),
    Theirs(object_store::Error),
}

impl GetError {
    fn during(self, key: &Key) -> Error {
        match self {
            Self::Ours(error) => error,
            Self::Theirs(cause) => failure(&cause, format!("read {key}")),
        }
    }

    /// Whether the object may simply end before the range begins.
    ///
    /// Source: RFC 9110, section 15.5.17, "416 Range Not Satisfiable".
    fn is_about_range(&self) -> bool {
        matches!(self, Self::Theirs(cause) if {
            let text = cause.to_string();
            text.contains("416") || text.to_ascii_lowercase().contains("range")
        })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for CloudStore {
    fn location(&self) -> String {
        self.location.clone()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<Put> {
        use object_store::Error as Service;

        let mode = match self.writers {
            Writers::Several => PutMode::Create,
            Writers::Single => PutMode::Overwrite,
        };
        let path = self.path(key.as_str())?;
        match self.service.put_opts(&path, bytes.into(), mode.into()).await {
            Ok(_) => Ok(Put::Created),
            // S3 also answers 409 while a rival's request is still under way and may yet fail.
            // Source: Amazon S3 API, PutObject, `If-None-Match`, "409 Conflict".
            Err(Service::AlreadyExists { .. } | Service::Precondition { .. }) => {
                match self.size_bytes(key).await? {
                    Some(_) => Ok(Put::Existed),
                    None => Err(unreachable(format!("write {key}"))
                        .why("another writer of the same object is at work")),
                }
            }
            Err(cause) => Err(failure(&cause, format!("write {key}"))),
        }
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<Option<Bytes>> {
        let Some(found) = self.get(key, None).await.map_err(|error| error.during(key))? else {
            return Ok(None);
        };
        if found.meta.size > limit_bytes {
            return Err(longer_than(key, limit_bytes));
        }
        let bytes = found.bytes().await;
        bytes.map(Some).map_err(|cause| failure(&cause, format!("read {key}")))
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        if range.is_empty() {
            return Ok(self.size_bytes(key).await?.map(|_| Bytes::new()));
        }
        let start = range.start;
        match self.get(key, Some(GetRange::Bounded(range))).await {
            Ok(None) => Ok(None),
            Ok(Some(found)) => {
                let bytes = found.bytes().await;
                bytes.map(Some).map_err(|cause| failure(&cause, format!("read {key}")))
            }
            Err(error) if error.is_about_range() => match self.size_bytes(key).await? {
                None => Ok(None),
                Some(size) if size <= start => Ok(Some(Bytes::new())),
                Some(_) => Err(error.during(key)),
            },
            Err(error) => Err(error.during(key)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let mut listing = Listing::default();
        let directory = prefix.rsplit_once('/').map_or("", |(directory, _)| directory);
        if !directory.is_empty() && Key::new(directory).is_err() {
            return Ok(listing.sorted());
        }
        let failed = |cause| failure(&cause, format!("list {prefix}*"));
        let top = self.path(directory)?;
        let mut objects = self.service.list(Some(&top).filter(|top| !top.as_ref().is_empty()));
        while let Some(object) = objects.try_next().await.map_err(failed)? {
            let name = object.location.as_ref();
            let below = name.strip_prefix(&self.root).unwrap_or(name).trim_start_matches('/');
            // Objects of others in the same bucket are none of ours.
            let Ok(key) = Key::new(below) else { continue };
            if key.as_str().starts_with(prefix) {
                let (size_bytes, modified) = (object.size, object.last_modified);
                listing.add(Listed { key, size_bytes, modified })?;
            }
        }
        Ok(listing.sorted())
    }

    async fn top(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn delete(&self, key: &Key) -> Result<Deleted> {
        use object_store::Error as Service;

        match self.service.delete(&self.path(key.as_str())?).await {
            Ok(()) | Err(Service::NotFound { .. }) => Ok(Deleted::Gone),
            Err(Service::PermissionDenied { .. }) => Ok(Deleted::Retained),
            // Source: Azure Blob Storage, immutability policies: 409, `BlobImmutableDueToPolicy`.
            Err(cause) if cause.to_string().contains("Immutable") => Ok(Deleted::Retained),
            Err(cause) => Err(failure(&cause, format!("delete {key}"))),
        }
    }
}

type Values = BTreeMap<String, String>;

fn s3(bucket: &str, values: &Values, client: ClientOptions) -> AmazonS3Builder {
    let is_clear = values.iter().any(|(name, value)| is_endpoint(name) && is_http(value));
    let builder = AmazonS3Builder::new()
        .with_region("us-east-1")
        .with_client_options(client)
        .with_retry(retry())
        .with_unsigned_payload(!is_clear)
        // One object per request, so that a refusal comes as a status and concerns that object.
        .with_disable_bulk_delete(true);
    configure(builder, values, AmazonS3Builder::with_config).with_bucket_name(bucket)
}

fn azure(container: &str, values: &Values, client: ClientOptions) -> MicrosoftAzureBuilder {
    let builder = MicrosoftAzureBuilder::new().with_client_options(client).with_retry(retry());
    configure(builder, values, MicrosoftAzureBuilder::with_config).with_container_name(container)
}

fn google(bucket: &str, values: &Values, client: ClientOptions) -> GoogleCloudStorageBuilder {
    let builder = GoogleCloudStorageBuilder::new().with_client_options(client).with_retry(retry());
    configure(builder, values, GoogleCloudStorageBuilder::with_config).with_bucket_name(bucket)
}

/// Applies the values whose names the builder knows; the environment holds others too.
fn configure<B, K: FromStr>(builder: B, values: &Values, with: impl Fn(B, K, String) -> B) -> B {
    values.iter().fold(builder, |builder, (name, value)| match name.to_ascii_lowercase().parse() {
        Ok(key) if !value.is_empty() => with(builder, key, value.clone()),
        _ => builder,
    })
}

fn retry() -> RetryConfig {
    RetryConfig { max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() }
}

fn client(values: &Values) -> Result<ClientOptions> {
    let allows = |(name, value): (&String, &String)| {
        name.to_ascii_lowercase().ends_with("_allow_http") && value == "true"
    };
    let mut is_clear = values.iter().any(allows);
    for (name, value) in values.iter().filter(|(name, value)| is_endpoint(name) && is_http(value)) {
        if !is_clear && !is_loopback(value) {
            let service = name.split('_').next().unwrap_or_default();
            return Err(Error::new(ErrorKind::Config, code::STORE_DENIED, "use an endpoint")
                .with("endpoint", value)
                .why("http:// would send credentials and data in clear text over the network")
                .next("use https://")
                .next(format!("or allow it: {service}_ALLOW_HTTP=true")));
        }
        is_clear = true;
    }
    Ok(ClientOptions::new()
        .with_timeout(REQUEST_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(is_clear))
}

fn is_endpoint(name: &str) -> bool {
    ENDPOINTS.contains(&name.to_ascii_lowercase().as_str())
}

fn is_http(url: &str) -> bool {
    url.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"))
}

fn is_loopback(url: &str) -> bool {
    match Url::parse(url).as_ref().map(Url::host) {
        Ok(Some(Host::Ipv4(address))) => address.is_loopback(),
        Ok(Some(Host::Ipv6(address))) => address.is_loopback(),
        Ok(Some(Host::Domain(name))) => name == "localhost",
        _ => false,
    }
}

fn unreachable(step: String) -> Error {
    Error::new(ErrorKind::Transient, code::STORE_UNREACHABLE, step)
}

/// Says what to do about a service's error. Its text is kept as the cause; requests that carry a
/// secret in their URL are shown without it by the client.
fn failure(cause: &object_store::Error, step: String) -> Error {
    use object_store::Error as Service;

    let text = cause.to_string();
    let error = match (cause, status(&text)) {
        _ if is_about_space(&text) => Error::new(ErrorKind::Exhausted, code::STORE_FULL, step)
            .why("the store is full; nothing that was stored before is affected")
            .next("free some space or raise the quota, then repeat the command"),
        (Service::PermissionDenied { .. } | Service::Unauthenticated { .. }, _) => {
            Error::new(ErrorKind::Denied, code::STORE_DENIED, step)
                .next("allow these credentials to read, write, list and delete objects here")
        }
        (Service::NotFound { .. }, _) => Error::new(ErrorKind::Missing, code::NO_REPOSITORY, step)
            .why("the bucket or container does not exist"),
        (Service::NotImplemented { .. } | Service::NotSupported { .. }, _) | (_, Some(501)) => {
            Error::new(ErrorKind::Unsupported, code::SINGLE_WRITER, step)
                .why("the store knows no conditional writes")
        }
        (_, Some(400..=407 | 410..=428)) => Error::new(ErrorKind::Config, code::STORE_DENIED, step)
            .why("the service does not accept the request; region or endpoint may be wrong"),
        _ => unreachable(step),
    };
    error.caused_by(text)
}

fn is_about_space(text: &str) -> bool {
    ["QuotaExceeded", "InsufficientStorage", "StorageFull", "status code: 507"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// The HTTP status in an error's text; the client shows it nowhere else.
fn status(text: &str) -> Option<u16> {
    let (_, after) = text.split_once("status code: ")?;
    after.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> StoreOptions {
        let values = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        StoreOptions { values, ..StoreOptions::default() }
    }

    #[test]
    fn clear_text_stays_on_this_machine() {
        let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        let open = |endpoint, more: &[(&'static str, &'static str)]| {
            let values = [&keys[..], &[("AWS_ENDPOINT_URL", endpoint)], more].concat();
            CloudStore::open("s3://bucket/prefix", &options(&values)).map_err(|e| e.kind())
        };
        for local in ["http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9"] {
            assert!(open(local, &[]).is_ok(), "{local}");
        }
        for foreign in ["http://10.0.0.1:9", "HTTP://localhost.example.org", "http://"] {
            assert_eq!(open(foreign, &[]).unwrap_err(), ErrorKind::Config, "{foreign}");
        }
        assert!(open("http://10.0.0.1:9", &[("AWS_ALLOW_HTTP", "true")]).is_ok());
        assert!(open("https://10.0.0.1:9", &[]).is_ok());
    }

    #[test]
    fn odd_urls_are_refused() {
        for url in ["s3://", "s3:bucket", "s3://u:p@bucket", "s3://b//x//y", "ftp://b"] {
            let error = CloudStore::open(url, &StoreOptions::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
        }
    }

    #[test]
    fn failures_say_what_to_do() {
        for (status, kind) in [
            ("400 Bad Request", ErrorKind::Config),
            ("429 Too Many Requests", ErrorKind::Transient),
            ("501 Not Implemented", ErrorKind::Unsupported),
            ("503 Service Unavailable: SlowDown", ErrorKind::Transient),
            ("507 Insufficient Storage", ErrorKind::Exhausted),
        ] {
            let source = format!("Server returned non-2xx status code: {status}").into();
            let error = object_store::Error::Generic { store: "S3", source };
            assert_eq!(failure(&error, "write a".to_owned()).kind(), kind, "{status}");
        }
    }
}
