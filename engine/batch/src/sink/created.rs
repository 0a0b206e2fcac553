//! Tables that come into being with a write, `CREATE TABLE ... AS`: their names, their folders, and how a session gets to
//! know them.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::planner::object_name_to_table_reference;
use datafusion::sql::sqlparser::ast;
use trireme_spec::problem::{ErrorCode, Problem};

use crate::statements::statement_problem;
use crate::tables::{FilesDefinition, FilesTable};

/// How the files of such a table look.
pub const FORMAT: &str = "parquet";

/// Characters of a table's name that its folder bears: at four bytes each, a folder may be named so everywhere.
const NAME_CHARS_MAX: usize = 48;

/// A table that a write creates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub name: TableReference,
    pub existing: Existing,
}

/// What becomes of a table that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is an error.
    Refuse,
    /// Nothing is done.
    Keep,
    /// Its name is given to the new one.
    Replace,
}

impl Existing {
    /// # Errors
    /// Both at once.
    pub fn of(if_not_exists: bool, or_replace: bool) -> Result<Self, Problem> {
        match (if_not_exists, or_replace) {
            (false, false) => Ok(Self::Refuse),
            (true, false) => Ok(Self::Keep),
            (false, true) => Ok(Self::Replace),
            (true, true) => {
                let text = "OR REPLACE and IF NOT EXISTS exclude each other";
                Err(Problem::new(ErrorCode::SqlUnsupported, text).remedy("leave one of them out"))
            }
        }
    }
}

impl Created {
    /// What `statement` creates. Its text says so: nothing is planned, which may no longer be possible.
    ///
    /// # Errors
    /// A name that cannot be one.
    pub fn by(session: &SessionContext, statement: &Statement) -> Result<Option<Self>, Problem> {
        let Statement::Statement(statement) = statement else {
            return Ok(None);
        };
        let ast::Statement::CreateTable(create) = statement.as_ref() else {
            return Ok(None);
        };
        let normalize = session.copied_config().options().sql_parser.enable_ident_normalization;
        let name = object_name_to_table_reference(create.name.clone(), normalize);
        Ok(Some(Self {
            name: name.map_err(|error| statement_problem(&error))?,
            existing: Existing::of(create.if_not_exists, create.or_replace)?,
        }))
    }

    /// Whether a table is there that stays as it is.
    ///
    /// # Errors
    /// A schema that does not exist.
    pub fn is_there(&self, session: &SessionContext) -> Result<bool, Problem> {
        Ok(self.existing == Existing::Keep && self.exists(session)?)
    }

    /// Whether a table of this name is there.
    ///
    /// # Errors
    /// A schema that does not exist.
    pub fn exists(&self, session: &SessionContext) -> Result<bool, Problem> {
        session
            .table_exist(self.name.clone())
            .map_err(|error| statement_problem(&error))
    }

    /// Makes the table known to the session, of the files at `location`.
    ///
    /// # Errors
    /// Files that cannot be read back.
    pub async fn register(self, session: &SessionContext, location: &str) -> Result<(), Problem> {
        let definition = FilesDefinition {
            location: format!("{}/", location.trim_end_matches('/')),
            format: FORMAT.to_owned(),
            options: HashMap::new(),
            partition_columns: Vec::new(),
            schema: None,
        };
        let told = |error| statement_problem(&error);
        let table = FilesTable::open(&session.state(), definition).await.map_err(told)?;
        if self.existing == Existing::Replace {
            session.deregister_table(self.name.clone()).map_err(told)?;
        }
        session.register_table(self.name, Arc::new(table)).map_err(told)?;
        Ok(())
    }
}

/// Where a statement puts the table that it creates.
#[derive(Debug, Clone, Copy)]
pub struct Home<'a> {
    /// The folder of all such tables.
    pub warehouse: &'a str,
    /// The run of the job, and the statement, from 0.
    pub run: &'a str,
    pub index: usize,
}

impl Home<'_> {
    /// A folder that no other statement writes to, and no other run: views over a table that was replaced go on reading it,
    /// and a driver that comes later finds what each statement left. The name in it is for people.
    pub fn of(self, table: &TableReference) -> String {
        let Self { warehouse, run, index } = self;
        let plain = |c: char| {
            if c.is_alphanumeric() || matches!(c, '-' | '.') {
                c
            } else {
                '_'
            }
        };
        let name: String = table.to_string().chars().take(NAME_CHARS_MAX).map(plain).collect();
        format!("{}/{run}/{}-{name}", warehouse.trim_end_matches('/'), index + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statements;
    use trireme_spec::limits::Limits;

    fn created(session: &SessionContext, sql: &str) -> Result<Option<Created>, Problem> {
        let statements = statements::parse(sql, &Limits::default()).unwrap();
        Created::by(session, &statements[0])
    }

    #[test]
    fn a_statement_says_what_it_creates() {
        let session = SessionContext::new();
        for (sql, name, existing) in [
            (
                "CREATE TABLE Big AS SELECT 1",
                TableReference::bare("big"),
                Existing::Refuse,
            ),
            (
                "CREATE OR REPLACE TABLE \"Big\" AS SELECT 1",
                TableReference::bare("Big"),
                Existing::Replace,
            ),
            (
                "CREATE TABLE IF NOT EXISTS a.b.c (d INT)",
                TableReference::full("a", "b", "c"),
                Existing::Keep,
            ),
        ] {
            assert_eq!(
                created(&session, sql).unwrap(),
                Some(Created { name, existing }),
                "{sql}"
            );
        }
        assert_eq!(created(&session, "CREATE VIEW big AS SELECT 1").unwrap(), None);
        let both = created(&session, "CREATE OR REPLACE TABLE IF NOT EXISTS t AS SELECT 1").unwrap_err();
        assert_eq!(both.code, ErrorCode::SqlUnsupported);
    }

    #[test]
    fn each_statement_of_each_run_has_a_folder_of_its_own() {
        let home = |run, index| Home {
            warehouse: "/w/",
            run,
            index,
        };
        let bare = |name: &str| TableReference::bare(name.to_owned());
        assert_eq!(home("r", 1).of(&bare("big")), "/w/r/2-big");
        assert_eq!(home("r", 1).of(&TableReference::partial("s", "big")), "/w/r/2-s.big");
        assert_eq!(home("r", 0).of(&bare("../a b")), "/w/r/1-.._a_b");
        let folders = [
            home("r", 1).of(&bare("a/b")),
            home("r", 2).of(&bare("a b")),
            home("q", 1).of(&bare("a/b")),
            home("r", 0).of(&bare(&"é".repeat(300))),
        ];
        for (number, folder) in folders.iter().enumerate() {
            assert!(!folders[..number].contains(folder), "{folder}");
            assert!(folder.rsplit('/').next().unwrap().len() < 255, "{folder}");
        }
    }
}
