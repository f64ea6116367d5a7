//! A wire between the program and a server: it counts what the server sends, is as slow as it is
//! told to be, and can be cut.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// A port of its own, from which everything goes to a server.
#[derive(Debug)]
pub(crate) struct Tap {
    pub(crate) port: u16,
    wire: Arc<Wire>,
}

#[derive(Debug, Default)]
struct Wire {
    sent: AtomicU64,
    asked: AtomicU64,
    nanos_per_byte: AtomicU64,
    is_cut: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Tap {
    /// One before the server on a port of this machine.
    pub(crate) fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let wire = Arc::new(Wire::default());
        let own = Arc::clone(&wire);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                own.asked.fetch_add(1, Ordering::SeqCst);
                if own.is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                own.join(client, server);
            }
        });
        Self { port, wire }
    }

    /// Ends every connection; whoever asks for another one is turned away.
    pub(crate) fn cut(&self) {
        self.wire.is_cut.store(true, Ordering::SeqCst);
        for stream in self.wire.open.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Lets so many bytes of each connection pass in a second.
    pub(crate) fn slow_down(&self, bytes_per_second: u64) {
        self.wire.nanos_per_byte.store(1_000_000_000 / bytes_per_second, Ordering::SeqCst);
    }

    /// Lets everything pass at once.
    pub(crate) fn hurry(&self) {
        self.wire.nanos_per_byte.store(0, Ordering::SeqCst);
    }

    /// Bytes that the server has sent.
    pub(crate) fn sent(&self) -> u64 {
        self.wire.sent.load(Ordering::SeqCst)
    }

    /// How often somebody wanted a connection.
    pub(crate) fn asked(&self) -> u64 {
        self.wire.asked.load(Ordering::SeqCst)
    }
}

impl Wire {
    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let copies = [client.try_clone().unwrap(), server.try_clone().unwrap()];
        self.open.lock().unwrap().extend(copies);
        let (back, forth) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || pass_on(client, forth, |_| {}));
        let wire = Arc::clone(self);
        let count = move |length: u64| {
            wire.sent.fetch_add(length, Ordering::SeqCst);
            let nanos = wire.nanos_per_byte.load(Ordering::SeqCst);
            thread::sleep(Duration::from_nanos(nanos * length));
        };
        thread::spawn(move || pass_on(server, back, count));
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, count: impl Fn(u64)) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        count(length as u64);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}
