//! Every limit that has a name, with its unit last and its reason.

/// Recipients of one batch. Ten batches fill a megabyte at most, and one lease is half a second of work
/// for a worker of 256 slots.
pub const BATCH_RECIPIENTS_MAX: usize = 100;
/// Leases in one Lease, Checkpoint, Finish or Release call: bounds one answer to about 1 MiB.
pub const LEASES_PER_CALL_MAX: usize = 64;
/// Facts in one Facts call.
pub const FACTS_PER_CALL_MAX: usize = 1000;
/// Definitions a worker may say it holds.
pub const KNOWN_DEFINITIONS_MAX: usize = 256;
/// How long a Lease call may be held.
pub const LEASE_WAIT_MS_MAX: u64 = 30_000;
/// The truth behind every hint: a waiting Lease call looks at the store at least this often.
pub const CLAIM_POLL_MS: u64 = 250;
/// Doubts after which a recipient is held as unknown whatever the policy: nobody gets one mail more often than this
/// because replies are lost. Expiries are left to the poison rule, but for those of an outage.
pub const DOUBTS_MAX: u32 = 5;
/// Leases of a batch in a row that expired with somebody in intent and without an outcome, after which it is suspect:
/// leased in parts until the recipient that ends workers stands alone.
pub const STRIKES_MAX: u32 = 3;
/// Leases of a batch in a row that expired without a word from their worker, after which the batch is set aside. Many,
/// because workers also die without its doing.
pub const UNHEARD_MAX: u32 = 10;
/// Dead letters of one answer.
pub const DEAD_LETTERS_PAGE_MAX: usize = 1000;
/// Keys of `run retry` that a run remembers; a repeat comes soon or not at all.
pub const RETRY_KEYS_KEPT_MAX: usize = 16;
/// Retries due within this long of the first are leased together with it.
pub const RETRY_COALESCE_MS: u64 = 2_000;
/// The longest one SMTP transaction may take: RFC 5321 4.5.3.2.6 gives the final dot 600 s, plus the
/// commands before it. A lease without progress for this long is not extended, and no intent is granted
/// that could not end before the hard cap.
pub const TRANSACTION_MS_MAX: u64 = 660_000;
/// Bytes of one merge field, after which a row is bad.
pub const FIELD_BYTES_MAX: usize = 64 * 1024;
/// Merge fields of one recipient.
pub const FIELDS_MAX: usize = 256;
/// Bytes of all fields of one recipient.
pub const RECIPIENT_BYTES_MAX: usize = 256 * 1024;
/// Bytes of one template part.
pub const TEMPLATE_BYTES_MAX: usize = 1024 * 1024;
/// Idempotency keys that a campaign remembers; a repeat comes soon or not at all.
pub const APPLY_KEYS_KEPT_MAX: usize = 32;
/// Versions of a campaign that can be looked at.
pub const CAMPAIGN_VERSIONS_KEPT_MAX: u64 = 20;
/// Versions of a saved list that can be looked at and exported.
pub const LIST_VERSIONS_KEPT_MAX: usize = 20;
/// Missed runs of a schedule that are caught up with when it does not say how many, and at most.
pub const CATCH_UP_RUNS: u32 = 100;
pub const CATCH_UP_RUNS_MAX: u32 = 1_000;
/// How far back they are when it does not say.
pub const CATCH_UP_WINDOW_MS: u64 = 7 * 86_400_000;
/// The longest jitter of a schedule.
pub const JITTER_MS_MAX: u64 = 86_400_000;
/// Bytes of one uploaded audience.
pub const AUDIENCE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Bytes of an audience once it is inflated. Only the time it takes grows with them.
pub const AUDIENCE_INFLATED_BYTES_MAX: u64 = 256 * 1024 * 1024 * 1024;
/// Bytes of a query.
pub const SQL_QUERY_BYTES_MAX: usize = 64 * 1024;
/// How long a query and the reading of its rows may take: unless it is said, at least, at most.
pub const SQL_TIMEOUT_MS: u64 = 30 * 60_000;
pub const SQL_TIMEOUT_MS_MIN: u64 = 1_000;
pub const SQL_TIMEOUT_MS_MAX: u64 = 12 * 3_600_000;
/// Rows given inline in a request.
pub const INLINE_ROWS_MAX: usize = 100;
/// Bad rows kept for reading; all are counted.
pub const BAD_ROWS_KEPT_MAX: usize = 1000;
/// Batches of a run that may be ready in the store before its split pauses, unless the configuration says otherwise; and at
/// most.
pub const SPLIT_AHEAD_BATCHES: u64 = 1000;
pub const SPLIT_AHEAD_BATCHES_MAX: u64 = 100_000;
/// Recipients of one run. What tells repeats apart takes 20 to 39 bytes of a master for each of them.
pub const RUN_RECIPIENTS_MAX: usize = 100_000_000;
/// Batches written in one split transition.
pub const SPLIT_STEP_BATCHES_MAX: usize = 20;
/// Rows read between two split transitions at most, so that the lease of a split is kept alive through
/// an audience of nothing but bad rows.
pub const SPLIT_STEP_ROWS_MAX: u64 = 20_000;
/// Reply code kept per recipient.
pub const CODE_BYTES_MAX: usize = 40;
/// Reply text kept per recipient.
pub const DETAIL_BYTES_MAX: usize = 200;
/// One gRPC message.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// One chunk of an uploaded audience.
pub const UPLOAD_CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Time that one call of a `data_url` may take, when the campaign does not say, at least, and at most: its leases are
/// held meanwhile.
pub const DATA_TIMEOUT_MS: u64 = 10_000;
pub const DATA_TIMEOUT_MS_MIN: u64 = 1_000;
pub const DATA_TIMEOUT_MS_MAX: u64 = 60_000;
/// Bytes of one answer of a `data_url`, decompressed: 40 KiB for each recipient of a full batch.
pub const DATA_ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Time that one page of an `audience.http` may take when the campaign does not say, and at most.
pub const HTTP_TIMEOUT_MS: u64 = 300_000;
pub const HTTP_TIMEOUT_MS_MAX: u64 = 3_600_000;
/// Pages of one `audience.http`: a hash of each is held while they are read, to notice one that comes again.
pub const HTTP_PAGES_MAX: u64 = 1_000_000;
/// Headers that a campaign may add to a call.
pub const CALL_HEADERS_MAX: usize = 16;
/// The longest that a lease may be released for: whoever waits for something that is away looks again by then.
pub const RELEASE_DELAY_MS_MAX: u64 = 600_000;
/// The longest wait a deferral may ask for ("try again in …").
pub const RETRY_AFTER_MS_MAX: u64 = 86_400_000;
/// Bytes of all fields of one batch: a batch closes early rather than pass it, so that a lease answer of
/// `LEASES_PER_CALL_MAX` batches fits one gRPC message.
pub const BATCH_BYTES_MAX: usize = 192 * 1024;
/// Bytes of one recipient key.
pub const KEY_BYTES_MAX: usize = 256;
/// Bytes of all recipients that a split holds in part-filled batches.
pub const SPLIT_OPEN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Settled batches whose history is not written yet, after which nothing new is leased: bounds what the store
/// holds of a storage that cannot be written. A million recipients at most; a drained batch leaves the backlog.
pub const HISTORY_BACKLOG_BATCHES_MAX: u64 = 10_000;
/// Batches of one history segment: bounds one segment to a few megabytes before it is compressed.
pub const SEGMENT_BATCHES_MAX: usize = 100;
/// Runs that a search for an address looks at, newest first.
pub const FIND_RUNS_MAX: usize = 1000;
