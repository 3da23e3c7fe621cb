//! What was fetched before: of a page that says how to ask whether it changed (`ETag`, `Last-Modified`), the next
//! crawl asks only that.
//!
//! What each submitter's jobs fetched is for its jobs alone. Heads and small bodies are in a table of the memo's
//! file, other bodies are blocks of the cache: either may be lost at any time, and then the page is fetched whole.

use std::net::IpAddr;

use bytes::Bytes;
use hyper::header::{
    CACHE_CONTROL, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED, RANGE,
};
use hyper::{StatusCode, Version};
use ipdc_jobs::fetch::Rules;
use ipdc_jobs::ids::{FileRef, PeerId};
use ipdc_jobs::message::{INLINE_LIMIT, Payload};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;

use super::{Method, Request, Shared, Visit};
use crate::blocks::store::{Store, StoreError, Tier};
use crate::blocks::unixfs::{FileBuilder, FileReader};
use crate::state::pages::{self, PageKey};
use crate::state::{Db, StateError};

/// Where pages are remembered.
#[derive(Clone)]
pub struct Pages {
    db: Db,
    store: Store,
}

/// A page as it is remembered.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    fetched_ms: u64,
    ip: IpAddr,
    is_old_http: bool,
    headers: Vec<(String, String)>,
    body: Payload,
}

/// The name under which a page is remembered; none when this request is for no page, or asks itself whether it
/// changed.
pub(super) fn key(
    submitter: PeerId,
    rules: &Rules,
    url: &Url,
    request: &Request,
) -> Option<PageKey> {
    let asks = [IF_NONE_MATCH, IF_MODIFIED_SINCE, RANGE];
    if request.method != Method::Get || asks.iter().any(|name| request.headers.contains_key(name)) {
        return None;
    }
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(&submitter.to_bytes());
    part(rules.agent.as_str().as_bytes());
    part(url.as_str().as_bytes());
    for (name, value) in &request.headers {
        part(name.as_str().as_bytes());
        part(value.as_bytes());
    }
    Some(hasher.finalize().into())
}

impl Shared {
    /// What came from `url` under this name before, whole.
    pub(super) async fn known(&self, key: Option<&PageKey>, url: &Url) -> Option<Visit> {
        let known = self.pages.as_ref()?.find(*key?, url).await;
        known.unwrap_or_else(|error| {
            tracing::warn!(%error, "what was fetched before cannot be looked up");
            None
        })
    }

    /// Remembers what came under this name, if it can be asked whether it changes.
    pub(super) async fn remember(&self, key: Option<PageKey>, visit: &Visit) {
        let (Some(pages), Some(key)) = (&self.pages, key) else { return };
        if let Err(error) = pages.keep(key, visit).await {
            tracing::warn!(%error, "what was fetched is not remembered");
        }
    }
}

impl Pages {
    /// Heads go to `db`, bodies to `store`.
    #[must_use]
    pub fn new(db: Db, store: Store) -> Pages {
        Pages { db, store }
    }

    async fn find(&self, key: PageKey, url: &Url) -> Result<Option<Visit>, StateError> {
        let Some(kept) = pages::find(&self.db, key).await? else { return Ok(None) };
        let Ok(kept) = serde_json::from_str::<Kept>(&kept) else { return Ok(None) };
        let body = match &kept.body {
            Payload::Inline(body) => Some(body.clone()),
            Payload::File(file) => self.read(file).await,
        };
        Ok(body.and_then(|body| kept.visit(url.clone(), body)))
    }

    async fn read(&self, file: &FileRef) -> Option<Bytes> {
        let mut reader = FileReader::open_file(self.store.clone(), file).await.ok()?;
        let mut body = Vec::new();
        while (body.len() as u64) < file.len {
            body.extend_from_slice(
                &reader.read_at(body.len() as u64, file.len as usize).await.ok()?,
            );
        }
        Some(body.into())
    }

    async fn write(&self, body: &[u8]) -> Result<FileRef, StoreError> {
        let mut file = FileBuilder::new(self.store.add(Tier::Cache));
        file.write(body).await?;
        file.finish().await
    }

    async fn keep(&self, key: PageKey, visit: &Visit) -> Result<(), StateError> {
        let can_be_asked =
            [ETAG, LAST_MODIFIED].iter().any(|name| visit.headers.contains_key(name));
        let control = visit.headers.get(CACHE_CONTROL).and_then(|value| value.to_str().ok());
        let is_secret = control.is_some_and(|control| control.contains("no-store"));
        if visit.status != StatusCode::OK || !can_be_asked || is_secret {
            return Ok(());
        }
        // A full disk, or a header that is no text: the page is fetched whole the next time.
        let Some(headers) = texts(&visit.headers) else { return Ok(()) };
        let body = if visit.body.len() <= INLINE_LIMIT {
            Some(Payload::Inline(visit.body.clone()))
        } else {
            self.write(&visit.body).await.ok().map(Payload::File)
        };
        let Some(body) = body else { return Ok(()) };
        let kept = Kept {
            fetched_ms: visit.fetched_ms,
            ip: visit.ip,
            is_old_http: visit.version == Version::HTTP_10,
            headers,
            body,
        };
        let kept = serde_json::to_string(&kept).expect("texts and numbers encode");
        pages::remember(&self.db, key, kept).await
    }
}

fn texts(headers: &HeaderMap) -> Option<Vec<(String, String)>> {
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        Some((name.to_string(), value.to_str().ok()?.to_owned()))
    };
    headers.iter().map(text).collect()
}

impl Kept {
    fn visit(self, url: Url, body: Bytes) -> Option<Visit> {
        let header =
            |(name, value): (String, String)| Some((name.parse().ok()?, value.parse().ok()?));
        let headers: Option<HeaderMap> = self.headers.into_iter().map(header).collect();
        Some(Visit {
            url,
            method: Method::Get,
            fetched_ms: self.fetched_ms,
            ip: self.ip,
            version: if self.is_old_http { Version::HTTP_10 } else { Version::HTTP_11 },
            status: StatusCode::OK,
            headers: headers?,
            body,
            unchanged_since: None,
        })
    }
}
