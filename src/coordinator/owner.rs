//! Whose name it is: a name in the repository belongs to one database at a time.

use stillpoint_contract::{Error, ErrorKind, Identity, Result, code};

use crate::repository::{Repository, history::Committed};

/// Which other database may have a name from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Successor<'a> {
    /// One that was restored or re-created where the owner was.
    #[default]
    InPlace,
    /// None.
    Nobody,
    /// Any of the same engine.
    Anybody,
    /// Any of the same engine, as long as this incarnation is the owner.
    After(&'a str),
}

impl Successor<'_> {
    fn admits(self, owner: &Committed, found: &Identity) -> bool {
        match self {
            Self::InPlace => owner.commit.location == found.location,
            Self::Nobody => false,
            Self::Anybody => true,
            Self::After(incarnation) => owner.commit.incarnation == incarnation,
        }
    }
}

/// The database that owns a name: that of the newest backup under it.
#[derive(Debug)]
pub(super) struct Owner(Committed);

impl Owner {
    /// Finds it; a name without a backup has no owner.
    pub(super) async fn of(repository: &Repository, database: &str) -> Result<Option<Self>> {
        let history = repository.history().await?;
        Ok(history.live_of(database).next_back().cloned().map(Self))
    }

    /// The newest backup under the name.
    pub(super) fn backup(&self) -> &Committed {
        &self.0
    }

    /// Answers whether `found` is a new incarnation of the owner.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when it is another database.
    pub(super) fn admit(
        &self,
        engine: &str,
        found: &Identity,
        successor: Successor<'_>,
    ) -> Result<bool> {
        let commit = &self.0.commit;
        if commit.engine == engine && commit.incarnation == found.id {
            return Ok(false);
        }
        if commit.engine == engine && successor.admits(&self.0, found) {
            return Ok(true);
        }
        let database = &commit.database;
        Err(Error::new(
            ErrorKind::Refused,
            code::FOREIGN_DATABASE,
            format!("recognise the database that owned the name {database} until now"),
        )
        .with("found", format!("{engine} {} at {}", found.id, found.location))
        .with(
            "expected",
            format!("{} {} at {}", commit.engine, commit.incarnation, commit.location),
        )
        .why(
            "mixing two databases under one name would make both hard to restore; nothing was \
             written",
        )
        .next("another database? give it a name of its own: --name NAME")
        .next("the same one, moved or re-created? stillpoint backup … --new-incarnation")
        .next(format!("… and run by policies? stillpoint db adopt {database} --new-incarnation")))
    }
}
