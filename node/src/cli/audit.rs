//! `audit`: who was let in, what was run, and for whom.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;

use super::Session;
use super::error::CliError;
use super::output::{Answer, harmless, put_table, table};
use crate::audit::Entry;
use crate::view::AuditQuery;

/// Show who was let in or cut off, what was taken in, run and refused, and for whom
#[derive(Debug, Args)]
pub(super) struct Audit {
    /// Only the last: `30m`, `12h`, `7d`
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Only about the nodes and jobs of this owner
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
}

impl Audit {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let query =
            AuditQuery { since_s: self.since.map(|since| since.as_secs()), owner: self.owner };
        let entries = session.client()?.audit(&query).await?;
        session.output.put(&Log(entries))
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Log(Vec<Entry>);

impl Answer for Log {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut rows = table(&["TIME", "WHAT", "OWNER", "PEER", "JOB", "DETAIL"]);
        for Entry { at_ms, what, owner, peer, job, detail } in &self.0 {
            rows.add_row([
                time(*at_ms),
                what.name().to_owned(),
                owner.escape_debug().to_string(),
                peer.map(|peer| peer.to_string()).unwrap_or_default(),
                job.map(|job| job.to_string()).unwrap_or_default(),
                // Others' words may be in it: what would steer a terminal is escaped.
                harmless(detail),
            ]);
        }
        put_table(to, &rows)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        for Entry { at_ms, what, owner, .. } in &self.0 {
            writeln!(to, "{} {} {}", time(*at_ms), what.name(), owner.escape_debug())?;
        }
        Ok(())
    }
}

/// In UTC, so that the logs of several nodes can be laid side by side.
fn time(at_ms: u64) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(at_ms));
    humantime::format_rfc3339_seconds(at.unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}
