//! Where the storage is: a folder, or a bucket.

use super::StorageError;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use std::path::PathBuf;
use std::sync::Arc;

const FOLDER_MEND: &str = "set [storage] url to a folder that can be written";

pub(super) struct Place {
    pub objects: Arc<dyn ObjectStore>,
    pub folder: Option<PathBuf>,
}

pub(super) fn open(place: &str) -> Result<Place, StorageError> {
    let wrong = |why: String| StorageError::Open { place: place.to_owned(), why, mend: FOLDER_MEND };
    let folder = match place.split_once("://") {
        Some(("s3", rest)) => return bucket::open(place, rest).map(|objects| Place { objects, folder: None }),
        Some(("file", path)) if path.starts_with('/') => PathBuf::from(path),
        Some(("file", _)) => return Err(wrong("a file:// URL has three slashes: file:///var/lib/postrider".into())),
        Some((scheme, _)) => return Err(wrong(format!("{scheme}:// is none of a plain path, file:///… and s3://…"))),
        None if place.is_empty() => return Err(wrong("it is empty".into())),
        None => PathBuf::from(place),
    };
    std::fs::create_dir_all(&folder).map_err(|error| wrong(error.to_string()))?;
    let objects = LocalFileSystem::new_with_prefix(&folder).map_err(|error| wrong(error.to_string()))?;
    Ok(Place { objects: Arc::new(objects.with_fsync(true)), folder: Some(folder) })
}

/// What a bucket that was asked at the start answered. One that cannot be reached may be there later: what needs it
/// waits or fails until then, and the rest of the master works.
pub(super) fn refused(place: &str, error: object_store::Error) -> Result<(), StorageError> {
    let refusal = |why: String, mend| Err(StorageError::Open { place: place.to_owned(), why, mend });
    match error {
        object_store::Error::NotFound { .. } => {
            refusal("there is no such bucket".into(), "make it, or mend [storage] url")
        }
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => refusal(
            "access is denied".into(),
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and let that user list, read, write and delete there",
        ),
        other => {
            tracing::warn!(storage = place, error = %other, "failed to reach the storage, going on without for now");
            Ok(())
        }
    }
}

#[cfg(feature = "s3")]
mod bucket {
    use super::StorageError;
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
    use object_store::prefix::PrefixStore;
    use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
    use std::sync::Arc;
    use std::time::Duration;

    /// One request, the transfer of its bytes included: a part of an upload, a segment, a piece of an audience.
    const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// A request is tried again for this long; whoever made it tries again after that.
    const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
    const RETRIES_MAX: usize = 5;
    const BACKOFF_MAX: Duration = Duration::from_secs(2);
    const MEND: &str = "write s3://BUCKET/PREFIX, and set AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for \
                        a server that is not Amazon's, AWS_ENDPOINT_URL";

    /// `rest`: what stands after `s3://`. Everything else is from the environment, as with every program for S3.
    pub fn open(place: &str, rest: &str) -> Result<Arc<dyn ObjectStore>, StorageError> {
        let wrong = |why: String| StorageError::Open { place: place.to_owned(), why, mend: MEND };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong("it names no bucket".into()));
        }
        if rest.contains(['?', '#', '@']) {
            return Err(wrong("credentials and parameters do not belong into the URL".into()));
        }
        let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
        let endpoint = endpoint.iter().find_map(|key| builder.get_config_value(key)).unwrap_or_default();
        let backoff = BackoffConfig { max_backoff: BACKOFF_MAX, ..BackoffConfig::default() };
        let retry = RetryConfig { backoff, max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT };
        // Plaintext only where the endpoint says so, whatever else the environment allows.
        let client = ClientOptions::new()
            .with_timeout(REQUEST_TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_allow_http(endpoint.starts_with("http://"));
        let objects =
            builder.with_client_options(client).with_retry(retry).build().map_err(|error| wrong(error.to_string()))?;
        match prefix.trim_matches('/') {
            "" => Ok(Arc::new(objects)),
            prefix => Ok(Arc::new(PrefixStore::new(objects, prefix))),
        }
    }
}

#[cfg(not(feature = "s3"))]
mod bucket {
    use super::StorageError;
    use object_store::ObjectStore;
    use std::sync::Arc;

    pub fn open(place: &str, _: &str) -> Result<Arc<dyn ObjectStore>, StorageError> {
        Err(StorageError::Open {
            place: place.to_owned(),
            why: "this build has no S3".into(),
            mend: "use one with the feature s3 (cargo build --features s3), or set [storage] url to a folder",
        })
    }
}
