//! The sentences that every store must keep (invariant I14), as checks over any store.

use std::{
    collections::BTreeSet,
    fmt::{self, Debug},
    ops::Range,
    pin::pin,
    sync::Arc,
};

use bytes::Bytes;
use futures::future::{join_all, poll_immediate};
use stillpoint_contract::{ErrorKind, Result};

use super::{Deleted, Key, Listed, Put, Store};

/// One sentence, and how a store kept it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The sentence.
    pub sentence: &'static str,
    /// What was seen instead, if it does not hold.
    pub broken: Option<String>,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.broken {
            None => write!(f, "holds   {}", self.sentence),
            Some(seen) => write!(f, "BROKEN  {}: {seen}", self.sentence),
        }
    }
}

/// Checks every sentence, using names that begin with `scope/`, which must be unused. What was
/// written is deleted as far as the sentences hold. Takes about 45 MiB of memory.
pub async fn check(store: Arc<dyn Store>, scope: &str) -> Vec<Checked> {
    let suite = Suite { store, scope: scope.to_owned() };
    let mut report = Vec::new();
    macro_rules! sentences {
        ($($sentence:literal => $check:ident,)*) => {$(
            let broken = Box::pin(suite.$check()).await.err().map(|Broken(seen)| seen);
            report.push(Checked { sentence: $sentence, broken });
        )*};
    }
    sentences! {
        "of 32 racing creates exactly one wins, and its bytes stay" => race,
        "a taken name answers Existed and keeps its bytes" => no_overwrite,
        "an object can be read, whole and in ranges, as soon as create has answered" => ranges,
        "an empty object is an object" => empty,
        "what is not there is None, and no error" => absence,
        "an object longer than the limit is refused" => limit,
        "a listing holds what was created, in order of name, with sizes" => order,
        "a prefix is text: it need not end at a slash" => prefixes,
        "every legal name is told from every other" => names,
        "deleting is idempotent, and a deleted name can be created again" => deletion,
        "an object of 40 MiB comes back as it was" => big,
        "a dropped create leaves the whole object or none" => dropped,
    }
    report
}

struct Suite {
    store: Arc<dyn Store>,
    scope: String,
}

/// What was seen instead of what the sentence says.
struct Broken(String);

impl From<stillpoint_contract::Error> for Broken {
    fn from(error: stillpoint_contract::Error) -> Self {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        Self(format!("{:?}: {error}{}", error.kind(), cause.unwrap_or_default()))
    }
}

type Verdict = Result<(), Broken>;

fn expect<T: PartialEq + Debug>(what: &str, expected: &T, seen: &T) -> Verdict {
    if seen == expected {
        return Ok(());
    }
    let short = |value: &T| format!("{value:?}").chars().take(200).collect::<String>();
    Err(Broken(format!("{what}: expected {}, saw {}", short(expected), short(seen))))
}

const RIVALS: usize = 32;
const BIG_BYTES: usize = 40 << 20;
const READ_BYTES_MAX: u64 = 64 << 20;

impl Suite {
    fn key(&self, name: &str) -> Result<Key, Broken> {
        Ok(Key::new(format!("{}/{name}", self.scope))?)
    }

    async fn create(&self, name: &str, bytes: impl Into<Bytes>) -> Result<Put, Broken> {
        Ok(self.store.create(&self.key(name)?, bytes.into()).await?)
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, Broken> {
        Ok(self.store.read(&self.key(name)?, READ_BYTES_MAX).await?)
    }

    async fn delete(&self, name: &str) -> Result<Deleted, Broken> {
        Ok(self.store.delete(&self.key(name)?).await?)
    }

    /// The names below the scope that begin with `prefix`, without the scope.
    async fn list(&self, prefix: &str) -> Result<Vec<String>, Broken> {
        let scope = format!("{}/", self.scope);
        let name = |listed: Listed| listed.key.as_str().replacen(&scope, "", 1);
        let listed = self.store.list(&format!("{scope}{prefix}")).await?;
        Ok(listed.into_iter().map(name).collect())
    }

    async fn race(&self) -> Verdict {
        let key = self.key("race")?;
        let body = |rival: usize| Bytes::from(vec![b'a' + rival as u8; 1000 + rival]);
        let tasks = (0..RIVALS).map(|rival| {
            let (store, key) = (Arc::clone(&self.store), key.clone());
            let body = body(rival);
            tokio::spawn(async move { store.create(&key, body).await })
        });
        let mut winners = Vec::new();
        for (rival, put) in join_all(tasks).await.into_iter().enumerate() {
            if put.map_err(|panic| Broken(panic.to_string()))?? == Put::Created {
                winners.push(rival);
            }
        }
        expect("winners", &1, &winners.len())?;
        expect("kept", &Some(body(winners[0])), &self.read("race").await?)?;
        self.delete("race").await.map(drop)
    }

    async fn no_overwrite(&self) -> Verdict {
        expect("first", &Put::Created, &self.create("taken", "first").await?)?;
        for again in ["first", "second", ""] {
            expect(again, &Put::Existed, &self.create("taken", again).await?)?;
        }
        expect("kept", &Some(Bytes::from("first")), &self.read("taken").await?)?;
        self.delete("taken").await.map(drop)
    }

    async fn ranges(&self) -> Verdict {
        self.create("ranges", "0123456789").await?;
        let key = self.key("ranges")?;
        let cases: [(Range<u64>, &str); 8] = [
            (0..10, "0123456789"),
            (0..1, "0"),
            (3..6, "345"),
            (9..10, "9"),
            (8..99, "89"),
            (10..12, ""),
            (99..101, ""),
            (4..4, ""),
        ];
        for (range, expected) in cases {
            let seen = self.store.read_range(&key, range.clone()).await?;
            expect(&format!("{range:?}"), &Some(Bytes::from(expected)), &seen)?;
        }
        expect("whole", &Some(Bytes::from("0123456789")), &self.read("ranges").await?)?;
        self.delete("ranges").await.map(drop)
    }

    async fn empty(&self) -> Verdict {
        expect("create", &Put::Created, &self.create("empty", "").await?)?;
        expect("again", &Put::Existed, &self.create("empty", "x").await?)?;
        expect("read", &Some(Bytes::new()), &self.read("empty").await?)?;
        let range = self.store.read_range(&self.key("empty")?, 0..1).await?;
        expect("read 0..1", &Some(Bytes::new()), &range)?;
        expect("list", &vec!["empty".to_owned()], &self.list("empty").await?)?;
        self.delete("empty").await.map(drop)
    }

    async fn absence(&self) -> Verdict {
        for name in ["no", "no/such/object"] {
            expect(name, &None, &self.read(name).await?)?;
            for range in [0..1, 5..9, 0..0] {
                let seen = self.store.read_range(&self.key(name)?, range).await?;
                expect(name, &None, &seen)?;
            }
            expect("list", &Vec::new(), &self.list(&format!("{name}/")).await?)?;
        }
        Ok(())
    }

    async fn limit(&self) -> Verdict {
        self.create("limit", "12345").await?;
        let key = self.key("limit")?;
        let read = async |limit| self.store.read(&key, limit).await.map_err(|e| e.kind());
        expect("limit 5", &Ok(Some(Bytes::from("12345"))), &read(5).await)?;
        expect("limit 4", &Err(ErrorKind::Corrupt), &read(4).await)?;
        expect("limit 0", &Err(ErrorKind::Corrupt), &read(0).await)?;
        self.delete("limit").await.map(drop)
    }

    async fn order(&self) -> Verdict {
        let names = ["list/10", "list/2/b", "list/2-a", "list/2/a/z", "list/Z", "list/a", "list/~"];
        for (index, name) in names.into_iter().enumerate() {
            self.create(name, vec![0; index]).await?;
        }
        let listed = self.store.list(&format!("{}/list/", self.scope)).await?;
        let mut expected = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            expected.push((self.key(name)?, index as u64));
        }
        expected.sort();
        let seen = listed.into_iter().map(|listed| (listed.key, listed.size_bytes)).collect();
        expect("listing", &expected, &seen)?;
        self.delete_all(&names).await
    }

    async fn prefixes(&self) -> Verdict {
        let names = ["p/x", "p/x-1/z", "p/xy", "p/y/x", "p2"];
        for name in names {
            self.create(name, "").await?;
        }
        for (prefix, expected) in [
            ("p", &["p/x", "p/x-1/z", "p/xy", "p/y/x", "p2"][..]),
            ("p/", &["p/x", "p/x-1/z", "p/xy", "p/y/x"]),
            ("p/x", &["p/x", "p/x-1/z", "p/xy"]),
            ("p/x-", &["p/x-1/z"]),
            ("p/x-1/", &["p/x-1/z"]),
            ("p/x/", &[]),
            ("p/y/x", &["p/y/x"]),
            ("p/z", &[]),
        ] {
            let expected: Vec<_> = expected.iter().map(|name| (*name).to_owned()).collect();
            expect(prefix, &expected, &self.list(prefix).await?)?;
        }
        self.delete_all(&names).await
    }

    async fn names(&self) -> Verdict {
        let mut long = vec!["n".repeat(200); 4].join("/");
        long.truncate(Key::LENGTH_BYTES_MAX - self.scope.len() - "names/x/".len());
        let long = format!("names/x/{long}");
        let names: Vec<&str> = vec![
            "names/abcdefghijklmnopqrstuvwxyz",
            "names/ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            "names/0123456789-_.%~=",
            "names/a%20b",
            "names/a%2Fb",
            "names/a%2fb",
            "names/%61",
            "names/%",
            "names/~",
            "names/...a",
            "names/.hidden",
            "names/a..b",
            "names/-",
            &long,
        ];
        for name in &names {
            expect(name, &Put::Created, &self.create(name, name.to_string()).await?)?;
        }
        for name in &names {
            let expected = Some(Bytes::from((*name).to_owned()));
            expect(name, &expected, &self.read(name).await?)?;
        }
        let expected: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
        expect("list", &expected.into_iter().collect(), &self.list("names/").await?)?;
        self.delete_all(&names).await
    }

    async fn deletion(&self) -> Verdict {
        expect("of nothing", &Deleted::Gone, &self.delete("gone").await?)?;
        for round in ["first", "second"] {
            expect(round, &Put::Created, &self.create("gone", round).await?)?;
            expect(round, &Deleted::Gone, &self.delete("gone").await?)?;
            expect(round, &Deleted::Gone, &self.delete("gone").await?)?;
            expect(round, &None, &self.read("gone").await?)?;
        }
        Ok(())
    }

    async fn big(&self) -> Verdict {
        let mut bytes = vec![0; BIG_BYTES];
        blake3::Hasher::new().update(b"big").finalize_xof().fill(&mut bytes);
        let bytes = Bytes::from(bytes);
        expect("create", &Put::Created, &self.create("big", bytes.clone()).await?)?;
        let middle = BIG_BYTES as u64 / 2..BIG_BYTES as u64 / 2 + 5000;
        let range = self.store.read_range(&self.key("big")?, middle.clone()).await?;
        let expected = bytes.slice(middle.start as usize..middle.end as usize);
        expect("range", &Some(expected), &range)?;
        let read = self.read("big").await?;
        expect("read", &true, &(read.as_ref() == Some(&bytes)))?;
        self.delete("big").await.map(drop)
    }

    async fn dropped(&self) -> Verdict {
        let bytes = Bytes::from(vec![7; 1 << 20]);
        for polls in 0..20 {
            let name = format!("dropped/{polls}");
            {
                let mut create = pin!(self.create(&name, bytes.clone()));
                for _ in 0..polls {
                    if poll_immediate(&mut create).await.is_some() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            for _ in 0..3 {
                if let Some(seen) = self.read(&name).await? {
                    expect("read after a drop", &true, &(seen == bytes))?;
                }
            }
            self.create(&name, bytes.clone()).await?;
            expect("read in the end", &true, &(self.read(&name).await? == Some(bytes.clone())))?;
            self.delete(&name).await?;
        }
        Ok(())
    }

    async fn delete_all(&self, names: &[&str]) -> Verdict {
        for name in names {
            self.delete(name).await?;
        }
        Ok(())
    }
}
