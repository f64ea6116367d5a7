//! `stillpoint restore --as standby`: what is restored follows a server that lives.

use stillpoint_contract::{Error, ErrorKind, Result, code};

use crate::cli::partial::PartialOptions;

/// What `--as` says then.
pub(crate) const STANDBY: &str = "standby";

const STEP: &str = "restore a standby";

/// How the server is reached that the restored one follows; nothing where it follows none.
pub(super) fn primary(options: &PartialOptions, primary: Option<&str>) -> Result<Option<String>> {
    let invalid =
        |why: &'static str| Err(Error::new(ErrorKind::Invalid, code::USAGE, STEP).why(why));
    let is_standby = options.into.is_none() && options.name.as_deref() == Some(STANDBY);
    let Some(primary) = primary else {
        if is_standby {
            let error = Error::new(ErrorKind::Invalid, code::USAGE, STEP);
            return Err(error
                .why("nothing says which server it follows")
                .next("name it: --primary \"host=HOST user=USER\""));
        }
        return Ok(None);
    };
    if !is_standby {
        return invalid("--primary is what a standby follows: --as standby");
    }
    if has_password(primary) {
        return invalid(
            "a password would be seen in lists of processes, and lie in the server's \
             configuration: put it into a password file, and name that with passfile=PATH",
        );
    }
    Ok(Some(primary.to_owned()))
}

/// Whether a password is in a connection string, in either of its notations.
fn has_password(conninfo: &str) -> bool {
    let is_set =
        |(at, word): (usize, &str)| conninfo[at + word.len()..].trim_start().starts_with('=');
    let login = conninfo.split_once("://").and_then(|(_, rest)| rest.split(['/', '?']).next());
    let login = login.and_then(|place| place.rsplit_once('@')).map(|(login, _)| login);
    conninfo.match_indices("password").any(is_set) || login.is_some_and(|login| login.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_found_in_both_notations() {
        for secret in [
            "host=db1 password=swordfish",
            "password = 'sword fish' host=db1",
            "host=db1 sslpassword=swordfish",
            "postgres://me:swordfish@db1/",
            "postgres://me@db1/?password=swordfish",
        ] {
            assert!(has_password(secret), "{secret}");
        }
        for plain in
            ["host=db1 user=me passfile=/etc/pass", "postgres://me@db1:5432/", "user=password"]
        {
            assert!(!has_password(plain), "{plain}");
        }
    }
}
