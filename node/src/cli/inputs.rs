//! `--input`: which inputs a job gets, by which names, and their content.
//!
//! A job has one input, or several by name. Of several, one that is given without a name has that of
//! its place: `logs/left.csv.gz` is `left_csv`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::str::FromStr;

use ipdc_jobs::ids::Cid;
use ipdc_jobs::spec::{INPUT_NAME_LIMIT, JobSpec};

use super::error::CliError;
use super::gather;
use super::progress::Progress;
use super::transfer;
use crate::api::client::Client;
use crate::view::ContentPath;

/// One `--input`: `PLACE`, or `NAME=PLACE`, where a place is a path, a pattern or a CID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    name: Option<String>,
    place: String,
}

impl FromStr for Input {
    type Err = std::convert::Infallible;

    /// What is there as a path is one, whatever its name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty() && name.chars().all(is_plain))
            .filter(|_| !Path::new(text).exists());
        Ok(match named {
            Some((name, place)) => Input { name: Some(name.to_owned()), place: place.to_owned() },
            None => Input { name: None, place: text.to_owned() },
        })
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// The places of a job's inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Inputs {
    /// What `job.toml` says.
    Own,
    One(String),
    Named(BTreeMap<String, String>),
}

impl Inputs {
    /// What is `given` for the job of `spec`.
    ///
    /// # Errors
    /// When one of several has no name, or that of another, or was named by its place as no input
    /// of the job is.
    pub(super) fn new(given: &[Input], spec: &JobSpec) -> Result<Self, CliError> {
        match given {
            [] => return Ok(Inputs::Own),
            [Input { name: None, place }] => return Ok(Inputs::One(place.clone())),
            _ => {}
        }
        let known: BTreeSet<&str> = spec.inputs.keys().map(String::as_str).collect();
        let mut named = BTreeMap::new();
        for Input { name, place } in given {
            let wrong = |why: String| CliError::Inputs { input: place.clone(), why };
            let name = match (name, name_of(place)) {
                (Some(name), _) => name.clone(),
                (None, None) => return Err(wrong("has nothing to be named by".to_owned())),
                (None, Some(name)) if known.is_empty() || known.contains(&*name) => name,
                (None, Some(name)) => {
                    let known = Vec::from_iter(known).join(", ");
                    return Err(wrong(format!("would be `{name}`, and job.toml names {known}")));
                }
            };
            if let Some(other) = named.get(&name) {
                return Err(wrong(format!("would be `{name}`, as `{other}` is")));
            }
            named.insert(name, place.clone());
        }
        Ok(Inputs::Named(named))
    }

    /// Adds what is not in the swarm: the CID of the one input, and those of the named ones.
    pub(super) async fn add(
        &self,
        client: &Client,
        progress: &Progress,
    ) -> Result<(Option<Cid>, BTreeMap<String, String>), CliError> {
        let (mut one, mut named) = (None, BTreeMap::new());
        match self {
            Inputs::Own => {}
            Inputs::One(place) => one = Some(resolve(client, place, progress).await?),
            Inputs::Named(places) => {
                for (name, place) in places {
                    let cid = resolve(client, place, progress).await?;
                    named.insert(name.clone(), cid.to_string());
                }
            }
        }
        Ok((one, named))
    }
}

/// The name that a place gives: its last part without what follows the last dot, and with `_` for
/// what no name may have.
fn name_of(place: &str) -> Option<String> {
    let last = Path::new(place).file_stem()?.to_str()?;
    let plain = last.chars().map(|c| if is_plain(c) { c } else { '_' });
    let name: String = plain.take(INPUT_NAME_LIMIT).collect();
    name.contains(|c: char| c.is_ascii_alphanumeric()).then_some(name)
}

/// The CID of what a place names; a path, or what a pattern matches, is added first.
async fn resolve(client: &Client, place: &str, progress: &Progress) -> Result<Cid, CliError> {
    let path = Path::new(place);
    if path.exists() {
        return Ok(transfer::send(client, path, progress).await?.added.cid);
    }
    let matches = gather::matches(place)?;
    if !matches.is_empty() {
        return Ok(transfer::send_matches(client, place, matches, progress).await?.added.cid);
    }
    let path: ContentPath =
        place.parse().map_err(|_| CliError::Input { input: place.to_owned() })?;
    if path.parts.is_empty() {
        return Ok(path.root);
    }
    progress.say(format!("looking for {path}"));
    Ok(client.ls(&path).await?.cid)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ipdc_jobs::spec;

    use super::*;

    fn input(text: &str) -> Input {
        text.parse().unwrap()
    }

    /// What these are for a job with these lines in `job.toml`.
    fn inputs(texts: &[&str], toml: &str) -> Result<Inputs, CliError> {
        let given: Vec<_> = texts.iter().map(|text| input(text)).collect();
        let spec = spec::parse(&format!("kind = \"mr\"\n{toml}"), "job.toml").unwrap().remove(0);
        Inputs::new(&given, &spec)
    }

    fn named(pairs: &[(&str, &str)]) -> Inputs {
        let owned = |(name, place): &(&str, &str)| ((*name).to_owned(), (*place).to_owned());
        Inputs::Named(pairs.iter().map(owned).collect())
    }

    #[test]
    fn a_name_stands_before_the_first_equals_sign() {
        assert_eq!(input("left=a=b.csv").name.as_deref(), Some("left"));
        assert_eq!(input("left=a=b.csv").place, "a=b.csv");
        assert_eq!(input("dir/a=b.csv"), Input { name: None, place: "dir/a=b.csv".into() });
    }

    #[test]
    fn one_input_needs_no_name_and_several_have_that_of_their_place() {
        assert_eq!(inputs(&[], "").unwrap(), Inputs::Own);
        assert_eq!(inputs(&["dir/x.txt"], "").unwrap(), Inputs::One("dir/x.txt".to_owned()));
        assert_eq!(inputs(&["a=x"], "").unwrap(), named(&[("a", "x")]));
        assert_eq!(inputs(&["a=x", "b=x"], "").unwrap(), named(&[("a", "x"), ("b", "x")]));
        assert_eq!(
            inputs(&["a.txt", "/d/b.c.gz", "logs/2026-*.gz", "in/", "z=a.txt"], "").unwrap(),
            named(&[
                ("2026-_", "logs/2026-*.gz"),
                ("a", "a.txt"),
                ("b_c", "/d/b.c.gz"),
                ("in", "in/"),
                ("z", "a.txt"),
            ])
        );
        let cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
        let below = format!("{cid}/dir/left.csv");
        assert_eq!(inputs(&[cid, &below], "").unwrap(), named(&[(cid, cid), ("left", &below)]));
    }

    #[test]
    fn inputs_that_cannot_be_told_apart_are_refused_with_the_reason() {
        let why = |texts: &[&str], toml: &str| inputs(texts, toml).unwrap_err().to_string();
        let clash = why(&["2025/log.txt", "2026/log.txt"], "");
        assert_eq!(clash, "the input `2026/log.txt` would be `log`, as `2025/log.txt` is");
        assert!(why(&["a=x", "y/a.csv"], "").contains("would be `a`, as `x` is"));
        assert!(why(&["a=x", "a=y"], "").contains("would be `a`, as `x` is"));
        assert!(why(&["x", "logs/*.gz"], "").ends_with("has nothing to be named by"));
        assert!(why(&["x", ".."], "").ends_with("has nothing to be named by"));
    }

    #[test]
    fn a_job_that_names_its_inputs_gets_no_others_by_chance() {
        let toml = "[inputs]\nleft = \"l\"\nright = \"r\"\n";
        let both = inputs(&["d/right.csv", "left.csv"], toml).unwrap();
        assert_eq!(both, named(&[("left", "left.csv"), ("right", "d/right.csv")]));
        let error = inputs(&["people.csv", "left.csv"], toml).unwrap_err().to_string();
        assert!(error.contains("would be `people`, and job.toml names left, right"), "{error}");
        assert_eq!(
            inputs(&["more=x", "left=y"], toml).unwrap(),
            named(&[("left", "y"), ("more", "x")])
        );
    }
}
