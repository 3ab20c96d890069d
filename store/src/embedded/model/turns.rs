//! Whose turn it is: lane, then site, then run, each by stride scheduling (lowest pass first).
//!
//! A node that was idle starts where the sibling served last stands, so nobody saves up credit and
//! nobody starves. Parked runs (paused, failed, cancelled) and paused lanes are not among the choices
//! and cost nothing.

use super::pace::Rooms;
use postrider_common::ids::{LaneName, RunId, SiteName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One recipient moves a lane of weight 1 by this much.
const LANE_STRIDE: u64 = 1_000_000;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Turns {
    lanes: BTreeMap<LaneName, LaneNode>,
    paused: BTreeSet<LaneName>,
    /// Sites without room and until when: they have ready batches and are not among the choices.
    parked: BTreeSet<(i64, LaneName, SiteName)>,
    served: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct LaneNode {
    pass: u64,
    served: u64,
    sites: BTreeMap<SiteName, SiteNode>,
    choices: BTreeSet<(u64, SiteName)>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct SiteNode {
    pass: u64,
    served: u64,
    runs: BTreeMap<RunId, RunNode>,
    choices: BTreeSet<(u64, RunId)>,
    parked_until: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct RunNode {
    pass: u64,
    parked: bool,
    ready: BTreeSet<u64>,
}

/// Where a ready batch stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Turn {
    pub lane: LaneName,
    pub site: SiteName,
    pub run: RunId,
    pub sequence: u64,
}

impl Turns {
    pub fn add(&mut self, turn: Turn, parked: bool) {
        let lane = self.lanes.entry(turn.lane.clone()).or_default();
        let site = lane.sites.entry(turn.site.clone()).or_default();
        let run = site.runs.entry(turn.run.clone()).or_default();
        run.ready.insert(turn.sequence);
        run.parked = parked;
        if !parked {
            self.activate(&turn.lane, &turn.site, &turn.run);
        }
    }

    pub fn remove(&mut self, turn: &Turn) {
        let Some(run) = self.run_node(&turn.lane, &turn.site, &turn.run) else { return };
        run.ready.remove(&turn.sequence);
        if run.ready.is_empty() {
            self.deactivate(&turn.lane, &turn.site, &turn.run);
        }
    }

    pub fn has(&self, turn: &Turn) -> bool {
        let run = || self.lanes.get(&turn.lane)?.sites.get(&turn.site)?.runs.get(&turn.run);
        run().is_some_and(|run| run.ready.contains(&turn.sequence))
    }

    pub fn set_parked(&mut self, lane: &LaneName, sites: &BTreeSet<SiteName>, id: &RunId, parked: bool) {
        for site in sites {
            let Some(run) = self.run_node(lane, site, id) else { continue };
            run.parked = parked;
            match (parked, run.ready.is_empty()) {
                (true, _) => self.deactivate(lane, site, id),
                (false, false) => self.activate(lane, site, id),
                (false, true) => (),
            }
        }
    }

    /// A run without ready batches is not known any more.
    pub fn forget(&mut self, lane: &LaneName, sites: &BTreeSet<SiteName>, id: &RunId) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        for site in sites {
            lane.sites.get_mut(site).map(|site| site.runs.remove(id));
        }
    }

    /// Brings the choices in line with what there is. True: they were not.
    pub fn mend(&mut self, lane: &LaneName, sites: &BTreeSet<SiteName>, id: &RunId, parked: bool) -> bool {
        let mut is_mended = false;
        for name in sites {
            let Some(site) = self.lanes.get_mut(lane).and_then(|lane| lane.sites.get_mut(name)) else { continue };
            let Some(run) = site.runs.get_mut(id) else { continue };
            is_mended |= std::mem::replace(&mut run.parked, parked) != parked;
            let should_be = !parked && !run.ready.is_empty();
            let is_choice = site.choices.contains(&(run.pass, id.clone()));
            is_mended |= should_be != is_choice;
            match (should_be, is_choice) {
                (true, false) => self.activate(lane, name, id),
                (false, true) => self.deactivate(lane, name, id),
                (true, true) | (false, false) => (),
            }
        }
        is_mended
    }

    pub fn set_paused(&mut self, lane: &LaneName, paused: bool) {
        if paused {
            self.paused.insert(lane.clone());
        } else if self.paused.remove(lane)
            && let Some(node) = self.lanes.get_mut(lane)
        {
            node.pass = node.pass.max(self.served);
        }
    }

    pub fn is_paused(&self, lane: &LaneName) -> bool {
        self.paused.contains(lane)
    }

    /// Ready batches of a lane, parked ones included.
    pub fn ready(&self, lane: &LaneName) -> u64 {
        let runs =
            self.lanes.get(lane).into_iter().flat_map(|lane| lane.sites.values()).flat_map(|site| site.runs.values());
        runs.map(|run| run.ready.len() as u64).sum()
    }

    /// Takes the batch whose turn it is among those with room. `count` says how many recipients a batch has.
    pub fn take(
        &mut self,
        lanes: &[(LaneName, u32)],
        rooms: &mut Rooms,
        count: impl Fn(&RunId, u64) -> u32,
    ) -> Option<Turn> {
        self.pass_over(lanes, rooms);
        let candidates = lanes.iter().filter(|(name, _)| !self.paused.contains(name) && rooms.has_lane(name));
        let candidates = candidates.filter_map(|(name, weight)| {
            let lane = self.lanes.get(name).filter(|lane| !lane.choices.is_empty())?;
            Some((lane.pass, name, *weight))
        });
        let (_, lane_name, weight) = candidates.min()?;
        let lane = self.lanes.get_mut(lane_name)?;
        let (site_pass, site_name) = lane.choices.first().cloned()?;
        let site = lane.sites.get_mut(&site_name)?;
        let (run_pass, run_id) = site.choices.first().cloned()?;
        let run = site.runs.get_mut(&run_id)?;
        let sequence = run.ready.pop_first()?;
        let cost = u64::from(count(&run_id, sequence));

        rooms.take(lane_name, &site_name, cost);
        self.served = lane.pass;
        lane.pass += LANE_STRIDE * cost / u64::from(weight.max(1));
        lane.served = site_pass;
        lane.choices.pop_first();
        site.pass = site_pass + cost;
        site.served = run_pass;
        site.choices.pop_first();
        run.pass = run_pass + cost;
        if !run.ready.is_empty() {
            site.choices.insert((run.pass, run_id.clone()));
        }
        if !site.choices.is_empty() {
            lane.choices.insert((site.pass, site_name.clone()));
        }
        Some(Turn { lane: lane_name.clone(), site: site_name, run: run_id, sequence })
    }

    /// What has no room: a lane saves up no turns meanwhile, and a site leaves the choices for its time.
    fn pass_over(&mut self, lanes: &[(LaneName, u32)], rooms: &Rooms) {
        for (name, _) in lanes.iter().filter(|(name, _)| !self.paused.contains(name)) {
            let Some(lane) = self.lanes.get_mut(name) else { continue };
            if !rooms.has_lane(name) {
                lane.pass = lane.pass.max(self.served);
                continue;
            }
            while let Some((pass, site_name)) = lane.choices.first().cloned()
                && let Some(until) = rooms.site_until(&site_name)
            {
                lane.choices.remove(&(pass, site_name.clone()));
                if let Some(site) = lane.sites.get_mut(&site_name) {
                    let before = site.parked_until.replace(until);
                    before.map(|at| self.parked.remove(&(at, name.clone(), site_name.clone())));
                }
                self.parked.insert((until, name.clone(), site_name));
            }
        }
    }

    /// Sites whose time is over are among the choices again; they do not catch up.
    pub fn unpark(&mut self, now: i64, limit: usize) {
        for _ in 0..limit {
            let Some((_, lane, site)) = self.parked.first().filter(|(until, _, _)| *until <= now).cloned() else {
                break;
            };
            self.parked.pop_first();
            let Some(node) = self.lanes.get_mut(&lane) else { continue };
            let Some(node) = node.sites.get_mut(&site) else { continue };
            node.parked_until = None;
            if !node.choices.is_empty() {
                self.activate_site(&lane, &site);
            }
        }
    }

    /// Somebody of that lane and site is no longer in intent: it is looked at again with the next claim.
    pub fn unpark_soon(&mut self, lane: &LaneName, site: &SiteName) {
        let Some(node) = self.lanes.get_mut(lane).and_then(|node| node.sites.get_mut(site)) else { return };
        let Some(until) = node.parked_until.as_mut() else { return };
        let before = std::mem::replace(until, 0);
        self.parked.remove(&(before, lane.clone(), site.clone()));
        self.parked.insert((0, lane.clone(), site.clone()));
    }

    fn run_node(&mut self, lane: &LaneName, site: &SiteName, run: &RunId) -> Option<&mut RunNode> {
        self.lanes.get_mut(lane)?.sites.get_mut(site)?.runs.get_mut(run)
    }

    fn activate(&mut self, lane_name: &LaneName, site_name: &SiteName, run_id: &RunId) {
        let Some(lane) = self.lanes.get_mut(lane_name) else { return };
        let Some(site) = lane.sites.get_mut(site_name) else { return };
        let Some(run) = site.runs.get_mut(run_id) else { return };
        if site.choices.contains(&(run.pass, run_id.clone())) {
            return;
        }
        run.pass = run.pass.max(site.served);
        let site_was_idle = site.choices.is_empty();
        site.choices.insert((run.pass, run_id.clone()));
        if site_was_idle {
            self.activate_site(lane_name, site_name);
        }
    }

    fn activate_site(&mut self, lane_name: &LaneName, site_name: &SiteName) {
        let Some(lane) = self.lanes.get_mut(lane_name) else { return };
        let Some(site) = lane.sites.get_mut(site_name) else { return };
        if lane.choices.contains(&(site.pass, site_name.clone())) {
            return;
        }
        site.pass = site.pass.max(lane.served);
        let lane_was_idle = lane.choices.is_empty();
        lane.choices.insert((site.pass, site_name.clone()));
        if lane_was_idle {
            lane.pass = lane.pass.max(self.served);
        }
    }

    fn deactivate(&mut self, lane_name: &LaneName, site_name: &SiteName, run_id: &RunId) {
        let Some(lane) = self.lanes.get_mut(lane_name) else { return };
        let Some(site) = lane.sites.get_mut(site_name) else { return };
        let Some(run) = site.runs.get_mut(run_id) else { return };
        site.choices.remove(&(run.pass, run_id.clone()));
        if site.choices.is_empty() {
            lane.choices.remove(&(site.pass, site_name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(lane: &str, site: &str, run: &str, sequence: u64) -> Turn {
        let lane = lane.parse().unwrap();
        let site = site.parse().unwrap();
        Turn { lane, site, run: RunId::derive("t", run), sequence }
    }

    fn taken(turns: &mut Turns, lanes: &[(LaneName, u32)], n: usize) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        while all.len() < n {
            let Some(turn) = turns.take(lanes, &mut Rooms::default(), |_, _| 10) else { break };
            all.push((turn.lane.to_string(), turn.sequence));
        }
        all
    }

    #[test]
    fn lanes_share_by_weight_and_runs_in_turn() {
        let mut turns = Turns::default();
        for sequence in 1..=200 {
            turns.add(turn("a", "s", "big", sequence), false);
            turns.add(turn("b", "s", "other", sequence), false);
        }
        let lanes = [("a".parse().unwrap(), 3), ("b".parse().unwrap(), 1)];
        let got = taken(&mut turns, &lanes, 100);
        assert_eq!(got.iter().filter(|(lane, _)| lane == "a").count(), 75);
        turns.add(turn("a", "s", "small", 1), false);
        let next: Vec<_> =
            (0..3).filter_map(|_| turns.take(&lanes[..1], &mut Rooms::default(), |_, _| 10)).map(|t| t.run).collect();
        assert!(next.contains(&RunId::derive("t", "small")), "a small run is not behind a big one");
    }

    #[test]
    fn what_comes_back_comes_to_the_front_and_parked_runs_wait() {
        let mut turns = Turns::default();
        let lanes = [("a".parse().unwrap(), 1)];
        for sequence in 1..=3 {
            turns.add(turn("a", "s", "r", sequence), false);
        }
        assert_eq!(turns.take(&lanes, &mut Rooms::default(), |_, _| 1).map(|t| t.sequence), Some(1));
        turns.add(turn("a", "s", "r", 1), false);
        assert_eq!(turns.take(&lanes, &mut Rooms::default(), |_, _| 1).map(|t| t.sequence), Some(1));
        let sites = BTreeSet::from(["s".parse().unwrap()]);
        turns.set_parked(&lanes[0].0, &sites, &RunId::derive("t", "r"), true);
        assert_eq!(turns.take(&lanes, &mut Rooms::default(), |_, _| 1), None);
        assert_eq!(turns.ready(&lanes[0].0), 2);
        turns.set_parked(&lanes[0].0, &sites, &RunId::derive("t", "r"), false);
        turns.set_paused(&lanes[0].0, true);
        assert_eq!(turns.take(&lanes, &mut Rooms::default(), |_, _| 1), None);
        turns.set_paused(&lanes[0].0, false);
        assert_eq!(turns.take(&lanes, &mut Rooms::default(), |_, _| 1).map(|t| t.sequence), Some(2));
    }
}
