//! One scenario a file. Each starts real processes, injects its faults, and is judged by the sink's ledger.

mod bad_input;
mod big;
mod demo;
mod happy_path;
mod history_drained;
mod limits_hold;
mod master_killed;
mod poison;
mod redis_killed;
mod redis_outage;
mod refusals;
mod relay_down;
mod reply_lost;
mod retry;
mod rolling_restart;
mod run_cancelled;
mod run_paused;
mod sabotage;
mod same_key;
mod small_not_behind_big;
mod split_killed;
mod unsafe_store;
mod worker_drained;
mod worker_killed;
mod worker_restarted;
mod worker_stopped;
