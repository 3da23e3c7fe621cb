//! For whom this node works, and on which terms: what `[policy]` and `[limits]` of `ipdc.toml` say.
//!
//! It only judges: the claims of a checked manifest against the terms of its owner and what is now.
//! Nothing here reads a clock, a file or the swarm.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipdc_jobs::engine::{Grant, Runtime};
use ipdc_jobs::fetch::{Range, Reach};
use ipdc_jobs::ids::PeerId;
use ipdc_jobs::manifest::Limits;

use super::admit::{Claim, Refusal};
use crate::config::{self, Config, Hours};

/// The share of the processors above which other programs keep the machine busy: one core of four
/// is somebody at work, and no desktop at rest takes as much.
const BUSY: f32 = 0.25;

/// The runtimes that a node may have.
const HAS: [Runtime; 5] =
    [Runtime::Wasm, Runtime::Wasi, Runtime::Python, Runtime::Process, Runtime::Container];

/// What this node runs, and for whom.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    members: Terms,
    owners: BTreeMap<String, Terms>,
    /// Networks that are not public and may be asked all the same, by who may fetch.
    private: Vec<Range>,
}

/// On which terms the node works for somebody.
#[derive(Debug, Clone, PartialEq)]
struct Terms {
    runtimes: BTreeSet<Runtime>,
    limits: Limits,
    hours: Hours,
    idle: bool,
    slots: Option<u32>,
    jobs: Option<u32>,
    stored: Option<u64>,
    fetch: bool,
    network: bool,
    containers: u32,
    container_time: Duration,
    container_root: bool,
}

/// What is asked of a node for a container by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of the disk.
    pub disk: u64,
    /// How long it is to run.
    pub time: Duration,
    /// Whether it is to have a network.
    pub network: bool,
    /// Whether it is to run as its image's user.
    pub root: bool,
}

/// What an owner has of this node already, but for the job that is judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// Jobs that the node works for.
    pub(super) jobs: u32,
    /// Bytes that its jobs take.
    pub(super) stored: u64,
}

/// What a judgement depends on beside the claim.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Now {
    /// This node: the jobs of its own user are bound to no hours.
    pub me: PeerId,
    /// Whether the node is paused.
    pub paused: bool,
    /// The minute of the day, here.
    pub minute: u32,
    /// The share of the processors that other programs use, 0 to 1.
    pub others: f32,
}

impl Policy {
    /// What the settings say.
    #[must_use]
    pub fn new(config: &Config) -> Policy {
        let config::Policy {
            members,
            hours,
            idle,
            slots,
            jobs,
            stored,
            fetch,
            network,
            containers,
            container_time,
            container_root,
            owners,
            ..
        } = &config.policy;
        let config::Limits { memory, time, output } = &config.limits;
        let members = Terms {
            runtimes: members.iter().copied().collect(),
            limits: Limits {
                memory: memory.bytes(),
                time_ms: millis(*time),
                output: output.bytes(),
            },
            hours: *hours,
            idle: *idle,
            slots: *slots,
            jobs: *jobs,
            stored: above_zero(stored.bytes()),
            fetch: *fetch,
            network: *network,
            containers: *containers,
            container_time: *container_time,
            container_root: *container_root,
        };
        let terms = owners.iter().map(|(name, rule)| (name.clone(), members.with(rule)));
        let private = config.policy.fetch_private.clone();
        Policy { owners: terms.collect(), members, private }
    }

    /// The names of the runtimes that this node has and lets somebody use.
    #[must_use]
    pub fn offered(&self) -> Vec<String> {
        let offered = HAS.into_iter().filter(|runtime| self.grants(*runtime));
        offered.map(|runtime| runtime.name().to_owned()).collect()
    }

    /// Whether this node lets somebody use `runtime`.
    #[must_use]
    pub fn grants(&self, runtime: Runtime) -> bool {
        let mut all = std::iter::once(&self.members).chain(self.owners.values());
        all.any(|terms| terms.runtimes.contains(&runtime))
    }

    /// The same for everybody, but without `runtime`: the node turned out not to have it.
    #[must_use]
    pub fn without(mut self, runtime: Runtime) -> Policy {
        for terms in std::iter::once(&mut self.members).chain(self.owners.values_mut()) {
            terms.runtimes.remove(&runtime);
        }
        self
    }

    /// Whether this node lets somebody fetch from the network.
    #[must_use]
    pub fn grants_fetch(&self) -> bool {
        std::iter::once(&self.members).chain(self.owners.values()).any(|terms| terms.fetch)
    }

    /// Whether this node lets containers of somebody have a network.
    #[must_use]
    pub fn grants_network(&self) -> bool {
        std::iter::once(&self.members).chain(self.owners.values()).any(|terms| terms.network)
    }

    /// Whether this node works now for a job with this claim, whose submitter's certificate names
    /// `owner`.
    pub(super) fn judge(
        &self,
        claim: &Claim,
        owner: &str,
        used: Used,
        now: &Now,
    ) -> Result<Grant, Refusal> {
        let submitter = claim.submitter;
        let terms = self.terms(submitter, owner);
        let owner = owner.to_owned();
        if now.paused {
            return Err(Refusal::Paused);
        }
        if let Some(runtime) = claim.needs.runtimes.difference(&terms.runtimes).next() {
            return Err(Refusal::Policy { owner, submitter, runtime: *runtime });
        }
        if let Some(reach) = &claim.needs.fetch {
            self.check_reach(reach, terms, &owner, submitter)?;
        }
        if claim.needs.network && !terms.network {
            return Err(Refusal::Network { owner, submitter });
        }
        within(&claim.limits, &terms.limits)?;
        if submitter != now.me && !terms.hours.has(now.minute) {
            return Err(Refusal::Hours { owner, hours: terms.hours });
        }
        if submitter != now.me && terms.idle && now.others > BUSY {
            return Err(Refusal::Busy { owner });
        }
        if submitter != now.me {
            below("jobs under way", used.jobs.into(), terms.jobs.map(u64::from), &owner)?;
            below("bytes stored", used.stored, terms.stored, &owner)?;
        }
        Ok(Grant { owner, slots: terms.slots, takes: claim.needs.takes })
    }

    /// Whether `renter`, whose certificate names `owner` and who has `used` containers by hand here, may run one more.
    ///
    /// # Errors
    /// Why not.
    pub fn judge_wish(
        &self,
        wish: &Wish,
        renter: PeerId,
        owner: &str,
        used: u32,
        now: &Now,
    ) -> Result<(), Refusal> {
        let terms = self.terms(renter, owner);
        let (owner, submitter) = (owner.to_owned(), renter);
        if now.paused {
            return Err(Refusal::Paused);
        }
        if !terms.runtimes.contains(&Runtime::Container) {
            return Err(Refusal::Policy { owner, submitter, runtime: Runtime::Container });
        }
        if wish.network && !terms.network {
            return Err(Refusal::Network { owner, submitter });
        }
        if wish.root && !terms.container_root {
            return Err(Refusal::Root { owner, submitter });
        }
        let asked = Limits { memory: wish.memory, time_ms: millis(wish.time), output: wish.disk };
        within(&asked, &Limits { time_ms: millis(terms.container_time), ..terms.limits })?;
        if renter != now.me && !terms.hours.has(now.minute) {
            return Err(Refusal::Hours { owner, hours: terms.hours });
        }
        if renter != now.me && terms.idle && now.others > BUSY {
            return Err(Refusal::Busy { owner });
        }
        below("containers by hand", used.into(), Some(terms.containers.into()), &owner)
    }

    /// Whether a job of the `owner` may fetch from where it wants to.
    fn check_reach(
        &self,
        reach: &Reach,
        terms: &Terms,
        owner: &str,
        submitter: PeerId,
    ) -> Result<(), Refusal> {
        if !terms.fetch {
            return Err(Refusal::Fetch { owner: owner.to_owned(), submitter });
        }
        let is_open = |range: &&Range| self.private.iter().any(|open| open.covers(range));
        let closed = reach.private.iter().find(|range| !is_open(range));
        closed.map_or(Ok(()), |range| Err(Refusal::Reach { range: *range }))
    }

    /// How many jobs may be under way that this node's own user submits.
    #[must_use]
    pub fn jobs_taken_in(&self, me: PeerId, owner: &str) -> Option<u32> {
        self.terms(me, owner).jobs
    }

    /// How many bytes this node may fetch to hold a result, beside what its owner has already.
    pub(super) fn room(&self, submitter: PeerId, owner: &str, stored: u64) -> Room {
        let most = self.terms(submitter, owner).stored;
        Room { owner: owner.to_owned(), stored, most }
    }

    fn terms(&self, submitter: PeerId, owner: &str) -> &Terms {
        let named = self.owners.get(&submitter.to_string()).or_else(|| self.owners.get(owner));
        named.unwrap_or(&self.members)
    }
}

/// An owner's room for results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) owner: String,
    stored: u64,
    most: Option<u64>,
}

impl Room {
    /// Whether there is room for `more` bytes.
    pub(super) fn check(&self, more: u64) -> Result<(), Refusal> {
        let used = self.stored.saturating_add(more);
        // As much as there may be is not too much.
        below("bytes stored", used.saturating_sub(1), self.most, &self.owner)
    }
}

fn below(quota: &'static str, used: u64, most: Option<u64>, owner: &str) -> Result<(), Refusal> {
    match most {
        Some(most) if used >= most => {
            Err(Refusal::Quota { owner: owner.to_owned(), quota, used, most })
        }
        _ => Ok(()),
    }
}

impl Terms {
    /// These, but for what the rule says.
    fn with(&self, rule: &config::Rule) -> Terms {
        let config::Rule {
            runtimes,
            memory,
            time,
            output,
            hours,
            idle,
            slots,
            jobs,
            stored,
            fetch,
            network,
            containers,
            container_time,
            container_root,
        } = rule;
        let given = &self.limits;
        Terms {
            runtimes: runtimes
                .as_ref()
                .map_or_else(|| self.runtimes.clone(), |named| named.iter().copied().collect()),
            limits: Limits {
                memory: memory.map_or(given.memory, config::Size::bytes),
                time_ms: time.map_or(given.time_ms, millis),
                output: output.map_or(given.output, config::Size::bytes),
            },
            hours: hours.unwrap_or(self.hours),
            idle: idle.unwrap_or(self.idle),
            slots: slots.map_or(self.slots, above_zero),
            jobs: jobs.map_or(self.jobs, above_zero),
            stored: stored.map_or(self.stored, |stored| above_zero(stored.bytes())),
            fetch: fetch.unwrap_or(self.fetch),
            network: network.unwrap_or(self.network),
            containers: containers.unwrap_or(self.containers),
            container_time: container_time.unwrap_or(self.container_time),
            container_root: container_root.unwrap_or(self.container_root),
        }
    }
}

/// A bound of which 0 means that there is none.
fn above_zero<N: Default + PartialEq>(bound: N) -> Option<N> {
    Some(bound).filter(|bound| *bound != N::default())
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn within(wanted: &Limits, given: &Limits) -> Result<(), Refusal> {
    let pairs = [
        ("bytes of memory", wanted.memory, given.memory),
        ("ms", wanted.time_ms, given.time_ms),
        ("bytes of output", wanted.output, given.output),
    ];
    match pairs.into_iter().find(|(_, wanted, given)| wanted > given) {
        None => Ok(()),
        Some((unit, wanted, given)) => Err(Refusal::Limit {
            wanted: format!("{wanted} {unit}"),
            given: format!("{given} {unit}"),
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ipdc_jobs::engine::{Needs, Takes};

    use super::*;

    fn peer() -> PeerId {
        libp2p_identity::Keypair::generate_ed25519().public().to_peer_id()
    }

    fn policy(toml: &str) -> Policy {
        Policy::new(&Config::of_toml(toml).unwrap())
    }

    fn claim(submitter: PeerId) -> Claim {
        Claim {
            submitter,
            roster: vec![submitter],
            needs: runs(Runtime::Wasm),
            limits: Limits::default(),
        }
    }

    fn runs(runtime: Runtime) -> Needs {
        Needs { runtimes: [runtime].into(), ..Needs::default() }
    }

    const NOON: u32 = 12 * 60;

    fn now() -> Now {
        Now { me: peer(), paused: false, minute: NOON, others: 0.0 }
    }

    fn code(judged: Result<Grant, Refusal>) -> Option<&'static str> {
        judged.err().map(|refusal| refusal.stable_code())
    }

    #[test]
    fn by_default_members_run_wasm_within_the_limits_and_nothing_native() {
        let policy = policy("");
        let member = claim(peer());
        let granted = policy.judge(&member, "ann", Used::default(), &now()).unwrap();
        assert_eq!(granted, Grant { owner: "ann".into(), slots: None, takes: Takes::default() });
        for runtime in [Runtime::Process, Runtime::Container] {
            let native = Claim { needs: runs(runtime), ..member.clone() };
            let refused = policy.judge(&native, "ann", Used::default(), &now()).unwrap_err();
            assert_eq!(refused.stable_code(), "IPDC-5415");
            assert!(refused.to_string().contains("ann"), "{refused}");
        }
        let limits = Limits { memory: 5 << 30, ..Limits::default() };
        let greedy = Claim { limits, ..member };
        let refused = policy.judge(&greedy, "ann", Used::default(), &now()).unwrap_err();
        assert!(refused.to_string().contains("bytes of memory"), "{refused}");
    }

    #[test]
    fn native_programs_are_offered_when_somebody_is_named_and_the_node_can_run_them() {
        assert!(!policy("").grants(Runtime::Process));
        let named =
            policy("[policy.owners.ann]\nruntimes = [\"wasm\", \"process\", \"container\"]");
        assert!(named.grants(Runtime::Process) && named.grants(Runtime::Container));
        assert_eq!(named.offered(), ["wasm", "wasi", "python", "process", "container"]);
        let native = Claim { needs: runs(Runtime::Process), ..claim(peer()) };
        let judge =
            |policy: &Policy, owner| code(policy.judge(&native, owner, Used::default(), &now()));
        assert_eq!(judge(&named, "ann"), None);
        assert_eq!(judge(&named, "bob"), Some("IPDC-5415"));
        let unable = named.without(Runtime::Process).without(Runtime::Container);
        assert_eq!(unable.offered(), ["wasm", "wasi", "python"]);
        assert_eq!(judge(&unable, "ann"), Some("IPDC-5415"));
    }

    #[test]
    fn an_owner_has_terms_of_its_own_and_those_of_all_where_they_say_nothing() {
        let peer = peer();
        let policy = policy(&format!(
            "[policy]\nslots = 4\n[policy.owners.ann]\nruntimes = [\"wasm\", \"process\"]\n\
             memory = \"512 MiB\"\n[policy.owners.bob]\nslots = 0\nruntimes = []\n\
             [policy.owners.{peer}]\nslots = 1"
        ));
        let native = Claim { needs: runs(Runtime::Process), ..claim(self::peer()) };
        let ann = policy.judge(&native, "ann", Used::default(), &now()).unwrap();
        assert_eq!(ann.slots, Some(4));
        let limits = Limits { memory: 1 << 30, ..Limits::default() };
        let large = Claim { limits, ..claim(self::peer()) };
        assert_eq!(code(policy.judge(&large, "ann", Used::default(), &now())), Some("IPDC-5416"));
        assert_eq!(code(policy.judge(&large, "cid", Used::default(), &now())), None);
        assert_eq!(
            code(policy.judge(&claim(self::peer()), "bob", Used::default(), &now())),
            Some("IPDC-5415")
        );
        let by_peer = policy.judge(&claim(peer), "bob", Used::default(), &now()).unwrap();
        assert_eq!(by_peer.slots, Some(1), "a peer's name outranks its owner's");
    }

    #[test]
    fn an_owner_that_has_its_quota_gets_no_more_and_is_told_which_and_how_much() {
        let policy = policy(
            "[policy]\njobs = 2\nstored = \"1 MiB\"\n[policy.owners.bob]\njobs = 0\nstored = \"0 B\"",
        );
        let (now, claim) = (now(), claim(peer()));
        let judge = |owner, jobs, stored| {
            let judged = policy.judge(&claim, owner, Used { jobs, stored }, &now);
            judged.map(drop).map_err(|refusal| refusal.to_string())
        };
        assert_eq!(judge("ann", 1, (1 << 20) - 1), Ok(()));
        assert_eq!(judge("bob", 900, 1 << 40), Ok(()));
        let jobs = judge("ann", 2, 0).unwrap_err();
        assert!(jobs.starts_with("ann has 2 jobs under way here"), "{jobs}");
        let stored = judge("ann", 0, 1 << 20).unwrap_err();
        assert!(stored.starts_with("ann has 1048576 bytes stored here"), "{stored}");
        let room = policy.room(claim.submitter, "ann", 1 << 19);
        assert!(room.check(1 << 19).is_ok());
        assert_eq!(room.check((1 << 19) + 1).unwrap_err().stable_code(), "IPDC-5420");
        assert!(policy.room(claim.submitter, "bob", 1 << 40).check(1 << 40).is_ok());
        assert_eq!(policy.jobs_taken_in(now.me, "me"), Some(2));
        assert_eq!(policy.jobs_taken_in(now.me, "bob"), None);
    }

    #[test]
    fn containers_have_no_network_until_it_is_said_whose_may() {
        let policy = policy("[policy.owners.ann]\nruntimes = [\"container\"]\nnetwork = true\n");
        assert!(policy.grants_network() && !self::policy("").grants_network());
        let needs = Needs { network: true, ..runs(Runtime::Wasm) };
        let claim = Claim { needs, ..claim(peer()) };
        let wasm = |owner| code(policy.judge(&claim, owner, Used::default(), &now()));
        assert_eq!(wasm("bob"), Some("IPDC-5421"));
        let needs = Needs { network: true, ..runs(Runtime::Container) };
        let claim = Claim { needs, ..claim.clone() };
        let judged = policy.judge(&claim, "ann", Used::default(), &now());
        assert!(judged.is_ok(), "{judged:?}");
    }

    #[test]
    fn containers_by_hand_are_for_whom_the_policy_names_and_within_its_limits() {
        let renter = peer();
        let wish = Wish {
            memory: 1 << 30,
            disk: 1 << 30,
            time: Duration::from_secs(3_600),
            network: false,
            root: false,
        };
        let judge = |toml: &str, wish: Wish, used| {
            policy(toml).judge_wish(&wish, renter, "ann", used, &now())
        };
        assert!(matches!(judge("", wish, 0), Err(Refusal::Policy { .. })), "nobody is named");
        let ann = "[policy.owners.ann]\nruntimes = [\"container\"]\n";
        assert!(judge(ann, wish, 3).is_ok());
        assert!(matches!(judge(ann, wish, 4), Err(Refusal::Quota { most: 4, .. })));
        let none = format!("{ann}containers = 0");
        assert!(matches!(judge(&none, wish, 0), Err(Refusal::Quota { most: 0, .. })));
        let long = Wish { time: Duration::from_secs(9 * 3_600), ..wish };
        assert!(matches!(judge(ann, long, 0), Err(Refusal::Limit { .. })));
        assert!(judge(&format!("{ann}container_time = \"1day\""), long, 0).is_ok());
        let large = Wish { memory: 5 << 30, ..wish };
        assert!(matches!(judge(ann, large, 0), Err(Refusal::Limit { .. })));
        let root = Wish { root: true, ..wish };
        assert!(matches!(judge(ann, root, 0), Err(Refusal::Root { .. })));
        assert!(judge(&format!("{ann}container_root = true"), root, 0).is_ok());
        let open = Wish { network: true, ..wish };
        assert!(matches!(judge(ann, open, 0), Err(Refusal::Network { .. })));
        let paused = Now { paused: true, ..now() };
        let paused = policy(ann).judge_wish(&wish, renter, "ann", 0, &paused);
        assert!(matches!(paused, Err(Refusal::Paused)));
    }

    #[test]
    fn nobody_fetches_until_it_is_named_and_never_from_a_private_network_that_is_not() {
        let policy = policy(
            "[policy]\nfetch_private = [\"127.0.0.0/8\"]\n[policy.owners.ann]\nfetch = true\n\
             [policy.owners.bob]\nmemory = \"1 GiB\"",
        );
        assert!(policy.grants_fetch() && !self::policy("").grants_fetch());
        let asks = |private: &[&str]| {
            let private = private.iter().map(|range| range.parse().unwrap()).collect();
            let fetch = Some(Reach { private });
            Claim { needs: Needs { fetch, ..runs(Runtime::Wasm) }, ..claim(peer()) }
        };
        let now = now();
        let judge = |claim: &Claim, owner| policy.judge(claim, owner, Used::default(), &now);
        for owner in ["bob", "cid"] {
            assert_eq!(code(judge(&asks(&[]), owner)), Some("IPDC-5500"));
            assert_eq!(code(judge(&claim(peer()), owner)), None);
        }
        // Not this node's own user either.
        let own = Claim { submitter: now.me, ..asks(&[]) };
        assert_eq!(code(judge(&own, "me")), Some("IPDC-5500"));
        assert_eq!(code(judge(&asks(&["127.0.0.1", "127.1.0.0/16"]), "ann")), None);
        for range in ["10.0.0.0/8", "0.0.0.0/0", "::1"] {
            assert_eq!(code(judge(&asks(&["127.0.0.1", range]), "ann")), Some("IPDC-5501"));
        }
    }

    #[test]
    fn hours_and_idleness_bind_others_and_a_pause_everybody() {
        let policy = policy("[policy]\nhours = \"22:00-07:00\"\nidle = true");
        let (mine, theirs) = (now(), claim(peer()));
        let own = claim(mine.me);
        let night = Now { minute: 23 * 60, ..mine };
        let busy = Now { others: 0.5, ..night };
        let paused = Now { paused: true, ..night };
        assert_eq!(code(policy.judge(&theirs, "ann", Used::default(), &mine)), Some("IPDC-5418"));
        assert_eq!(code(policy.judge(&theirs, "ann", Used::default(), &night)), None);
        assert_eq!(code(policy.judge(&theirs, "ann", Used::default(), &busy)), Some("IPDC-5419"));
        assert_eq!(
            code(policy.judge(&own, "me", Used::default(), &Now { minute: NOON, ..busy })),
            None
        );
        for claim in [&own, &theirs] {
            assert_eq!(
                code(policy.judge(claim, "ann", Used::default(), &paused)),
                Some("IPDC-5417")
            );
        }
    }
}
