//! The tables of a set as the server knows them, in one question, however many there are.

use stillpoint_contract::{ArchiveSet, Error, ErrorKind, Result, code};
use tokio_postgres::{Client, Row};

use super::failure::failed;

const STEP: &str = "look at the tables of the set";

/// What the server knows of a set's tables.
#[derive(Debug)]
pub(super) struct Members {
    /// Their names, one for each member.
    pub(super) names: Vec<String>,
    /// The numbers that it knows them by.
    pub(super) numbers: Vec<u32>,
    /// Whether any of them has a trigger. A row that is deleted reaches those of tables that refer
    /// to its own, too, even where no row is left there: an action of a foreign key is a statement.
    pub(super) have_triggers: bool,
    /// The triggers that fire for rows which are deleted.
    pub(super) deletion_triggers: Vec<String>,
}

/// Source of the bit: PostgreSQL 18, `src/include/catalog/pg_trigger.h`, `TRIGGER_TYPE_DELETE`.
const TABLES: &str = "
    SELECT to_regclass(m.name)::oid, count(t.oid) > 0,
        coalesce(array_agg(quote_ident(t.tgname) ORDER BY t.tgname)
            FILTER (WHERE t.tgenabled <> 'R' AND t.tgtype & 8 = 8), '{}')
    FROM unnest($1::text[]) WITH ORDINALITY AS m (name, at)
        LEFT JOIN pg_trigger AS t ON t.tgrelid = to_regclass(m.name) AND t.tgenabled <> 'D'
            AND (NOT t.tgisinternal OR t.tgparentid <> 0 AND t.tgconstraint = 0)
    GROUP BY m.at, m.name ORDER BY m.at";

impl Members {
    /// Looks at them.
    pub(super) async fn look(client: &Client, set: &ArchiveSet) -> Result<Self> {
        let names: Vec<_> = set.members.iter().map(|one| one.table.name.clone()).collect();
        let rows = client.query(TABLES, &[&names]).await.map_err(|e| failed(e, STEP))?;
        let (mut numbers, mut have_triggers) = (Vec::new(), false);
        let mut deletion_triggers = Vec::new();
        for (row, name) in rows.iter().zip(&names) {
            let (number, has_triggers, triggers) = read(row).map_err(|e| failed(e, STEP))?;
            numbers.push(number.ok_or_else(|| {
                Error::new(ErrorKind::Missing, code::NO_SUCH_TABLE, STEP).with("table", name)
            })?);
            have_triggers |= has_triggers;
            deletion_triggers.extend(triggers.into_iter().map(|one| format!("{one} of {name}")));
        }
        Ok(Self { names, numbers, have_triggers, deletion_triggers })
    }

    /// The number of a member, if these are the tables of that set.
    pub(super) fn number(&self, set: &ArchiveSet, member: usize) -> Result<u32> {
        let are_those = set.members.iter().map(|one| &one.table.name).eq(&self.names);
        let number = self.numbers.get(member).filter(|_| are_those);
        number.copied().ok_or_else(|| Error::bug("find the table in the set"))
    }
}

type Found = (Option<u32>, bool, Vec<String>);

fn read(row: &Row) -> std::result::Result<Found, tokio_postgres::Error> {
    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
}
