//! Endpoints that a name stands for, by a server of names that at times has nothing to say.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    thread,
};

use super::quay::{CALM, endpoint, wait_for_state, ward};

/// What a server of names answers.
#[derive(Clone)]
enum Says {
    /// Services: names of hosts, and ports.
    Services(Vec<(&'static str, u16)>),
    /// A code such as 2, for a failure, or 3, for no such name; 0 with no records.
    Nothing(u8),
}

/// A server of names that answers every question with the same.
fn name_server(says: &Arc<Mutex<Says>>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let says = Arc::clone(says);
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let answer = answer(&buffer[..length], &says.lock().unwrap());
            drop(socket.send_to(&answer, from));
        }
    });
    address
}

/// Source: RFC 1035, 4.1; RFC 2782.
fn answer(question: &[u8], says: &Says) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let (services, code) = match says {
        Says::Services(services) => (services.clone(), 0),
        Says::Nothing(code) => (Vec::new(), *code),
    };
    let mut answer = question[..2].to_vec();
    answer.extend([0x85, 0x80 | code, 0, 1, 0, u8::try_from(services.len()).unwrap(), 0, 0, 0, 0]);
    answer.extend(&question[12..end]);
    for (host, port) in services {
        let mut target = Vec::new();
        for label in host.split('.') {
            target.push(u8::try_from(label.len()).unwrap());
            target.extend(label.as_bytes());
        }
        target.push(0);
        let length = u8::try_from(target.len() + 6).unwrap();
        // The name of the question, SRV, IN, five seconds; priority, weight, port, target.
        answer.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 5, 0, length, 0, 0, 0, 0]);
        answer.extend(port.to_be_bytes());
        answer.extend(target);
    }
    answer
}

/// Row 27: endpoints are found by the services of a name; a failure, or an answer with nothing in
/// it, takes none of them out.
#[test]
fn row_27_services_of_a_name_are_endpoints_and_an_empty_answer_takes_none_out() {
    let says = Arc::new(Mutex::new(Says::Services(vec![("one.db", 5432), ("two.db", 5433)])));
    let address = name_server(&says);
    let discover = format!(
        "[[discover]]\nkind = \"dns\"\nname = \"_postgresql._tcp.shop.test.\"\nevery = \"1s\"\n\
        server = \"{address}\"\nlabels = {{ app = \"shop\" }}\n\
        [[rule]]\nselect = \"app\"\ndatabase = \"{{app}}\"\n\
        endpoint = \"postgres://nobody@{{target}}/postgres\"\n"
    );
    let ward = ward(&format!("{CALM}{discover}"));
    let serving = ward.serve();
    wait_for_state(&ward, "one.db:5432", "pending");
    wait_for_state(&ward, "two.db:5433", "pending");
    let failures = || ward.said().matches("discovery.failed").count();
    for (nothing, count) in [(Says::Nothing(2), 1), (Says::Nothing(0), 2), (Says::Nothing(3), 2)] {
        *says.lock().unwrap() = nothing;
        ward.wait_until("that nothing was said", || count <= failures());
        assert_eq!(endpoint(&ward, "two.db:5433")["state"], "pending");
    }
    *says.lock().unwrap() = Says::Services(vec![("one.db", 5432)]);
    wait_for_state(&ward, "two.db:5433", "gone(expected)");
    assert_eq!(endpoint(&ward, "one.db:5432")["state"], "pending");
    serving.stop();
}
