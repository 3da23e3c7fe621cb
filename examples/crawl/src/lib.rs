//! Fetches a page and gives its words and its links, a line each; names the links as items. What is made of them then
//! is in `index.rs`.

mod index;

use ipdc_guest::{Response, emit, enqueue, fetch, log};

ipdc_guest::run!(crawl);

fn crawl(url: &str) {
    let page = match fetch(url) {
        Ok(page) => page,
        Err(error) => panic!("{error}"),
    };
    // To another host: it is another item, if the job takes it.
    if let Some(location) = page.location() {
        enqueue(&location);
        return;
    }
    if page.status() != 200 {
        log(&format!("status {}", page.status()));
        emit(b"status", page.status().to_string().as_bytes());
        return;
    }
    let html = page.text();
    emit(b"words", words(&html).join(" ").as_bytes());
    for link in links(&page, &html) {
        emit(b"link", link.as_bytes());
        enqueue(&link);
    }
}

/// What stands outside of tags.
fn words(html: &str) -> Vec<&str> {
    let texts = html.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text));
    texts.flat_map(str::split_ascii_whitespace).collect()
}

/// Where the page's `href`s lead.
fn links(page: &Response, html: &str) -> Vec<String> {
    let base = page.url();
    let targets = html.split("href=\"").skip(1).filter_map(|part| part.split('"').next());
    targets.filter_map(|target| join(&base, target)).collect()
}

/// The URL that `target` stands for on the page `base`. The node brings it into its normal form.
fn join(base: &str, target: &str) -> Option<String> {
    let target = target.split('#').next().filter(|target| !target.is_empty())?;
    let (scheme, rest) = base.split_once("://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    match target {
        _ if target.starts_with("http://") || target.starts_with("https://") => {
            Some(target.to_owned())
        }
        _ if target.starts_with("//") => Some(format!("{scheme}:{target}")),
        _ if target.starts_with('/') => Some(format!("{scheme}://{host}{target}")),
        _ if target.contains(':') => None,
        _ => {
            let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            Some(format!("{scheme}://{host}/{directory}/{target}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::join;

    #[test]
    fn links_are_told_from_where_they_stand() {
        let join = |target| join("http://a.example/x/y?z", target);
        for (target, url) in [
            ("/1", "http://a.example/1"),
            ("1", "http://a.example/x/1"),
            ("//b.example/1", "http://b.example/1"),
            ("https://b.example/1#here", "https://b.example/1"),
        ] {
            assert_eq!(join(target).as_deref(), Some(url), "{target}");
        }
        assert_eq!(join("#here"), None);
        assert_eq!(join("mailto:me@a.example"), None);
    }
}
