//! A folder with databases of two teams.

use crate::serving::ward::{HEAD, Ward};

/// Names, files and teams.
pub(super) const DATABASES: [(&str, &str, &str); 3] = [
    ("shop/orders", "orders.db", "shop"),
    ("shop/stock", "stock.db", "shop"),
    ("bank/ledger", "ledger.db", "bank"),
];

/// `shop/orders` and `shop/stock` of one team, `bank/ledger` of another, each with a row, and what
/// `more` configures.
pub(super) fn shops(more: &str) -> Ward {
    let mut config = format!(
        "{HEAD}[repository.vault]\nurl = \"vault\"\n[policy.default]\nlogs = \"never\"\n{more}"
    );
    for (name, file, team) in DATABASES {
        config += &database(name, file, team);
    }
    let ward = Ward::new(&config);
    for repository in ["repo", "vault"] {
        ward.ok(&["init", "--no-encryption", "--repo", repository]);
    }
    for (_, file, _) in DATABASES {
        drop(ward.create(file));
    }
    ward
}

/// A database of a team, to be configured: only those of `shop` go to `repo`.
pub(super) fn database(name: &str, file: &str, team: &str) -> String {
    let repository = if team == "shop" { "primary" } else { "vault" };
    format!(
        "[database.\"{name}\"]\nendpoint = \"sqlite:{file}\"\nlabels = {{ team = \"{team}\" }}\n\
         repository = \"{repository}\"\n"
    )
}
