//! The published list of errors: every code that a user can meet, with its class, exit code and meaning.
//!
//! One table below is the whole truth; reference docs, exit codes and the text of [`Problem`](crate::problem::Problem)
//! all come from it. Ids are stable: scripts match on them, so an id is never renamed and never used again for
//! something else.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who has to act for the error to go away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fault {
    /// The author of the manifest, the SQL or the data.
    User,
    /// A service or machine outside the job: storage, network, the cluster's capacity.
    External,
    /// Trireme itself: a bug, to be reported.
    Internal,
}

/// A family of errors; decides the exit code of `trireme`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorClass {
    /// The manifest, or the command line, cannot be accepted as written.
    Manifest,
    /// A statement cannot be parsed, planned or evaluated.
    Sql,
    /// Input data is absent or unreadable, or a destination cannot take the output.
    Data,
    /// Credentials are absent or were refused.
    Credentials,
    /// Something could not be reached, or its identity could not be proven.
    Network,
    /// A limit or budget is used up.
    Limit,
    /// Somebody stopped the job.
    Cancelled,
    /// A broken promise of Trireme's own.
    Internal,
}

impl ErrorClass {
    /// Every class, in the order of the documentation.
    pub const ALL: [ErrorClass; 8] = [
        ErrorClass::Manifest,
        ErrorClass::Sql,
        ErrorClass::Data,
        ErrorClass::Credentials,
        ErrorClass::Network,
        ErrorClass::Limit,
        ErrorClass::Cancelled,
        ErrorClass::Internal,
    ];

    /// The exit code of a process that ended for this reason. 0 is success.
    ///
    /// Small numbers are ours. 2 is also what command lines use for bad usage, which is what a bad manifest is;
    /// 70 is `EX_SOFTWARE` of sysexits; 130 is what a shell reports for Ctrl-C (128 + SIGINT).
    pub const fn exit_code(self) -> u8 {
        match self {
            ErrorClass::Manifest => 2,
            ErrorClass::Sql => 3,
            ErrorClass::Data => 4,
            ErrorClass::Credentials => 5,
            ErrorClass::Network => 6,
            ErrorClass::Limit => 7,
            ErrorClass::Internal => 70,
            ErrorClass::Cancelled => 130,
        }
    }

    /// What the class covers, in one sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            ErrorClass::Manifest => "the manifest or the command line cannot be accepted as written",
            ErrorClass::Sql => "a statement cannot be parsed, planned or evaluated",
            ErrorClass::Data => "input data is absent or unreadable, or a destination cannot take the output",
            ErrorClass::Credentials => "credentials are absent or were refused",
            ErrorClass::Network => "something could not be reached, or its identity could not be proven",
            ErrorClass::Limit => "a limit or budget is used up",
            ErrorClass::Cancelled => "somebody stopped the job",
            ErrorClass::Internal => "a bug in Trireme",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What is fixed about a code. Private: read it through the methods of [`ErrorCode`].
struct Facts {
    id: &'static str,
    class: ErrorClass,
    fault: Fault,
    retry: bool,
    meaning: &'static str,
}

/// `Variant = "STABLE-ID", Class, Fault, may a repetition help, meaning;`
macro_rules! error_codes {
    ($($variant:ident = $id:literal, $class:ident, $fault:ident, $retry:literal, $meaning:literal;)+) => {
        /// One concrete error that a user can meet. Travels as its text id.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $(#[doc = $meaning] #[serde(rename = $id)] $variant,)+
        }

        impl ErrorCode {
            /// Every code, in the order of the documentation: grouped by class.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant),+];

            const fn facts(self) -> Facts {
                match self {
                    $(ErrorCode::$variant => Facts {
                        id: $id,
                        class: ErrorClass::$class,
                        fault: Fault::$fault,
                        retry: $retry,
                        meaning: $meaning,
                    },)+
                }
            }
        }
    };
}

error_codes! {
    ManifestUnreadable = "MANIFEST-UNREADABLE", Manifest, User, false, "the manifest, or a file it names, cannot be read";
    ManifestSyntax = "MANIFEST-SYNTAX", Manifest, User, false, "the manifest is not well-formed YAML or JSON";
    ManifestDuplicateKey = "MANIFEST-DUPLICATE-KEY", Manifest, User, false, "a field is written twice in the same place";
    ManifestTooLarge = "MANIFEST-TOO-LARGE", Manifest, User, false, "the manifest is longer, deeper or, with its aliases expanded, bigger than allowed";
    ManifestDocuments = "MANIFEST-DOCUMENTS", Manifest, User, false, "a manifest holds exactly one document";
    ManifestAmbiguousValue = "MANIFEST-AMBIGUOUS-VALUE", Manifest, User, false, "an unquoted value means one thing to Kubernetes and another to YAML 1.2";
    ManifestWrongKind = "MANIFEST-WRONG-KIND", Manifest, User, false, "the kind is not one that this version runs";
    ManifestWrongApiVersion = "MANIFEST-WRONG-API-VERSION", Manifest, User, false, "the apiVersion is not one that this version reads";
    ManifestUnknownField = "MANIFEST-UNKNOWN-FIELD", Manifest, User, false, "a field that does not exist in this place";
    ManifestMissingField = "MANIFEST-MISSING-FIELD", Manifest, User, false, "a required field is absent";
    ManifestWrongType = "MANIFEST-WRONG-TYPE", Manifest, User, false, "a value of the wrong type, for instance text where a number belongs";
    ManifestOutOfRange = "MANIFEST-OUT-OF-RANGE", Manifest, User, false, "a number, a text or a list is smaller or larger than allowed";
    ManifestBadValue = "MANIFEST-BAD-VALUE", Manifest, User, false, "a value of the right type that is not one of the allowed ones";
    ManifestBadName = "MANIFEST-BAD-NAME", Manifest, User, false, "the name of a job, table, column, parameter or label breaks the rules for names";
    ManifestDuplicateName = "MANIFEST-DUPLICATE-NAME", Manifest, User, false, "two tables, or two partition columns of a table, share a name";
    ManifestRule = "MANIFEST-RULE", Manifest, User, false, "two or more fields contradict each other";
    ManifestBadLocation = "MANIFEST-BAD-LOCATION", Manifest, User, false, "a location is neither a path nor a URL that this version can read";
    ManifestCredential = "MANIFEST-CREDENTIAL", Manifest, User, false, "a secret is written into the manifest, where everybody can read it";
    ManifestChanged = "MANIFEST-CHANGED", Manifest, User, false, "the job was edited after its run had begun";
    ManifestTarget = "MANIFEST-TARGET", Manifest, User, false, "a field that means nothing where the job is to run";

    SqlSyntax = "SQL-SYNTAX", Sql, User, false, "a statement cannot be parsed";
    SqlUnknownTable = "SQL-UNKNOWN-TABLE", Sql, User, false, "a statement names a table that is neither declared nor created before";
    SqlUnknownColumn = "SQL-UNKNOWN-COLUMN", Sql, User, false, "a statement names a column that its tables do not have, or that more than one has";
    SqlUnknownFunction = "SQL-UNKNOWN-FUNCTION", Sql, User, false, "a statement calls a function that does not exist";
    SqlType = "SQL-TYPE", Sql, User, false, "an expression combines types that do not go together";
    SqlUnsupported = "SQL-UNSUPPORTED", Sql, User, false, "a statement is valid SQL that this version cannot run";
    SqlParameterMissing = "SQL-PARAMETER-MISSING", Sql, User, false, "a statement uses a parameter that the manifest does not give";
    SqlExecution = "SQL-EXECUTION", Sql, User, false, "an expression failed on a value: division by zero, overflow, a cast";

    DataNotFound = "DATA-NOT-FOUND", Data, User, false, "no file, object or bucket at a location";
    DataMalformed = "DATA-MALFORMED", Data, User, false, "a file is corrupt or not in the declared format or compression";
    DataSchemaMismatch = "DATA-SCHEMA-MISMATCH", Data, User, false, "files of one table, or rows and their destination, disagree on columns or types";
    DataDestinationExists = "DATA-DESTINATION-EXISTS", Data, User, false, "the destination of a write already holds data";
    DataIo = "DATA-IO", Data, External, true, "a disk or a file system could not read or write a file";
    DataCommitConflict = "DATA-COMMIT-CONFLICT", Data, External, true, "another writer or a newer driver committed to the destination first";

    CredentialsMissing = "CREDENTIALS-MISSING", Credentials, User, false, "a location needs credentials and none were found";
    CredentialsRefused = "CREDENTIALS-REFUSED", Credentials, User, false, "a service refused the credentials it was given";

    NetworkUnreachable = "NETWORK-UNREACHABLE", Network, External, true, "a service or peer could not be reached";
    NetworkTimeout = "NETWORK-TIMEOUT", Network, External, true, "a service or peer did not answer in time";
    NetworkTls = "NETWORK-TLS", Network, External, false, "a secure connection could not be made, or the peer did not prove who it is";

    LimitMemory = "LIMIT-MEMORY", Limit, User, false, "an operator that cannot spill needs more memory than there is";
    LimitSpill = "LIMIT-SPILL", Limit, User, false, "the spill quota, or the disk, is full";
    LimitDeadline = "LIMIT-DEADLINE", Limit, User, false, "the job ran longer than activeDeadlineSeconds";
    LimitStatements = "LIMIT-STATEMENTS", Limit, User, false, "the job has more statements than allowed";
    LimitMessage = "LIMIT-MESSAGE", Limit, User, false, "a plan or message is larger than a process accepts";
    LimitRetries = "LIMIT-RETRIES", Limit, External, true, "a retry budget is used up";
    LimitPoisonTask = "LIMIT-POISON-TASK", Limit, User, false, "a task killed every worker that tried it";
    LimitNoExecutors = "LIMIT-NO-EXECUTORS", Limit, External, true, "the job had no worker for longer than it may wait";

    Cancelled = "CANCELLED", Cancelled, User, false, "the job was stopped on request";
    CancelledReplaced = "CANCELLED-REPLACED", Cancelled, External, false, "a newer driver of the run has taken over, so this one stopped";
    CancelledOutputClosed = "CANCELLED-OUTPUT-CLOSED", Cancelled, User, false, "whoever read standard output went away, as `head` does; told by the exit code alone";

    Internal = "INTERNAL", Internal, Internal, false, "a bug in Trireme: please report it with this text";
}

impl ErrorCode {
    /// The stable text id, such as `MANIFEST-UNKNOWN-FIELD`.
    pub const fn id(self) -> &'static str {
        self.facts().id
    }

    /// The family of the code.
    pub const fn class(self) -> ErrorClass {
        self.facts().class
    }

    /// Who usually has to act.
    pub const fn fault(self) -> Fault {
        self.facts().fault
    }

    /// Whether the same action, repeated unchanged, may succeed.
    pub const fn retry(self) -> bool {
        self.facts().retry
    }

    /// What the code means, in one sentence.
    pub const fn meaning(self) -> &'static str {
        self.facts().meaning
    }

    /// The exit code of a process that ended for this reason.
    pub const fn exit_code(self) -> u8 {
        self.class().exit_code()
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_begin_with_their_class() {
        let mut seen = HashSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code.id()), "{code} is used twice");
            let class = code.class().to_string().to_uppercase();
            assert!(
                code.id() == class || code.id().starts_with(&format!("{class}-")),
                "{code} is of class {class}"
            );
        }
    }

    #[test]
    fn codes_travel_as_their_id() {
        for code in ErrorCode::ALL {
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, format!("\"{}\"", code.id()));
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).unwrap(), *code);
        }
    }

    #[test]
    fn every_class_has_its_own_exit_code_and_at_least_one_code() {
        let exits: HashSet<u8> = ErrorClass::ALL.iter().map(|class| class.exit_code()).collect();
        assert_eq!(exits.len(), ErrorClass::ALL.len());
        assert!(!exits.contains(&0));
        for class in ErrorClass::ALL {
            assert!(
                ErrorCode::ALL.iter().any(|code| code.class() == class),
                "{class} has no code"
            );
        }
    }
}
