//! Certificates for servers, from an authority that was made for a test.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
};

use tempfile::TempDir;

use crate::postgres::{Postgres, give_away};

/// An authority of its own, and certificates from it for 127.0.0.1.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
}

impl Authority {
    /// Makes one, with its certificate in `ca.crt`.
    ///
    /// # Errors
    ///
    /// When there is no `openssl`, or with what it says.
    pub fn new() -> io::Result<Self> {
        let own = Self { folder: TempDir::with_prefix("stillpoint-ca-")? };
        let words = "req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=ca -keyout ca.key -out";
        own.openssl(&format!("{words} ca.crt"))?;
        fs::write(own.path("names"), "subjectAltName=IP:127.0.0.1")?;
        Ok(own)
    }

    /// Where a file of it is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn openssl(&self, words: &str) -> io::Result<()> {
        let mut command = Command::new("openssl");
        let made = command.args(words.split(' ')).current_dir(self.folder.path()).output()?;
        if made.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("{words}: {}", String::from_utf8_lossy(&made.stderr))))
    }

    /// Makes `NAME.key` and `NAME.crt`, which is valid for so many days from now.
    ///
    /// # Errors
    ///
    /// With what `openssl` says.
    pub fn issue(&self, name: &str, days: i32) -> io::Result<()> {
        self.openssl(&format!(
            "req -newkey rsa:2048 -nodes -subj /CN=alice -keyout {name}.key -out {name}.csr"
        ))?;
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days {days} \
             -extfile names -out {name}.crt"
        ))
    }

    /// Gives a certificate to a server, as `server.crt`, and the authority's as `root.crt`: it
    /// reads them when it is told to reload.
    ///
    /// # Errors
    ///
    /// When files cannot be written.
    pub fn give(&self, server: &Postgres, name: &str) -> io::Result<()> {
        for (from, to) in [("key", "server.key"), ("crt", "server.crt")] {
            let to = server.data().join(to);
            fs::write(&to, fs::read(self.path(&format!("{name}.{from}")))?)?;
            fs::set_permissions(&to, Permissions::from_mode(0o600))?;
            give_away(&to)?;
        }
        fs::copy(self.path("ca.crt"), server.data().join("root.crt"))?;
        Ok(())
    }
}
