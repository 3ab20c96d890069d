//! Following ASK: while a slot is moved to another node, the keys that are there already are asked for there, call by
//! call.
//!
//! Only the commands that were answered with ASK are sent to the other node. Under ASKING it would answer for keys that
//! are still here as well, as if they were empty. A transaction is followed when all of it is there; a script whose keys
//! are on both sides is refused by both (TRYAGAIN) until the slot has moved.

use super::failure::{Failure, classify};
use super::link::{CONNECT_TIMEOUT, RESPONSE_TIMEOUT};
use super::locate::Locator;
use super::scripts::Scripts;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisError, RedisResult, Value};

/// The other node, when an answer names it.
fn asked(answer: &Value) -> Option<String> {
    let Value::ServerError(_) = answer else { return None };
    named(&answer.clone().extract_error().err()?)
}

fn named(error: &RedisError) -> Option<String> {
    match classify(error) {
        Failure::Elsewhere { there, asking: true } => Some(there),
        Failure::Elsewhere { .. }
        | Failure::Reload
        | Failure::Reconnect(_)
        | Failure::Wait { .. }
        | Failure::Fatal(_) => None,
    }
}

/// The answers, those of the other node in place of each ASK.
pub(super) async fn follow(
    locator: &Locator,
    scripts: &Scripts,
    place: &str,
    pipe: &Pipeline,
    mut answers: Vec<Value>,
) -> Result<Vec<Value>, Failure> {
    let Some(there) = answers.iter().find_map(asked) else { return Ok(answers) };
    let moved: Vec<usize> = (0..answers.len()).filter(|at| asked(&answers[*at]).is_some()).collect();
    let mut connection = connect(locator, scripts, &there, place).await?;
    let mut again = Pipeline::new();
    again.ignore_errors();
    let commands: Vec<&Cmd> = pipe.cmd_iter().collect();
    for at in &moved {
        let Some(command) = commands.get(*at) else { return Err(elsewhere(there)) };
        again.cmd("ASKING").add_command((*command).clone());
    }
    let there_said: RedisResult<Vec<Value>> = again.query_async(&mut connection).await;
    let there_said = there_said.map_err(|error| classify(&error))?;
    for (at, answer) in moved.into_iter().zip(there_said.into_iter().skip(1).step_by(2)) {
        answers[at] = answer;
    }
    Ok(answers)
}

/// The answers of the other node to a transaction that was refused by `error`.
pub(super) async fn follow_transaction(
    locator: &Locator,
    scripts: &Scripts,
    place: &str,
    pipe: &Pipeline,
    error: &RedisError,
) -> Result<Vec<Value>, Failure> {
    let refusals = error.clone().into_server_errors().unwrap_or_default();
    let all_moved =
        refusals.len() == pipe.cmd_iter().count() && refusals.iter().all(|refusal| refusal.1.code() == "ASK");
    let failure = classify(error);
    let Failure::Elsewhere { there, asking: true } = &failure else { return Err(failure) };
    if !all_moved {
        return Err(failure);
    }
    let mut connection = connect(locator, scripts, there, place).await?;
    // It holds until EXEC.
    let allowed: RedisResult<Value> = redis::cmd("ASKING").query_async(&mut connection).await;
    allowed.map_err(|error| classify(&error))?;
    pipe.query_async(&mut connection).await.map_err(|error| classify(&error))
}

fn elsewhere(there: String) -> Failure {
    Failure::Elsewhere { there, asking: true }
}

async fn connect(
    locator: &Locator,
    scripts: &Scripts,
    there: &str,
    place: &str,
) -> Result<MultiplexedConnection, Failure> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    let made = locator.at(there, place)?.get_multiplexed_async_connection_with_config(&config).await;
    let mut connection = made.map_err(|error| classify(&error))?;
    scripts.load(&mut connection).await?;
    Ok(connection)
}
