//! Turns the lines of a crawl around: for each word, or each link, the pages that have it.

use ipdc_guest::{Values, emit, param};
use serde_json::Value;

ipdc_guest::map!(pages);
ipdc_guest::reduce!(list);

/// A line is a page: `{"item": URL, "output": "words\t…\nlink\t…"}`.
fn pages(lines: &[u8]) {
    let wanted = param("of").expect("`of` is `words` or `link`");
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let page: Value = serde_json::from_slice(line).expect("a line of results.jsonl");
        let (Some(url), Some(output)) = (page["item"].as_str(), page["output"].as_str()) else {
            continue;
        };
        let found = output.lines().filter_map(|line| line.split_once('\t'));
        for (_, values) in found.filter(|(name, _)| *name == wanted) {
            for value in values.split(' ') {
                emit(value.as_bytes(), url.as_bytes());
            }
        }
    }
}

/// Each page once.
fn list(key: &[u8], urls: Values<'_>) {
    let mut urls: Vec<&[u8]> = urls.collect();
    urls.sort_unstable();
    urls.dedup();
    emit(key, &urls.join(&b' '));
}
