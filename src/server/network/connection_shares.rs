//! Holders of the connections of a listener, and the choice of the connection that is closed for another: only
//! decisions, without sockets and clocks.
//!
//! A connection has no holder until a logged-in user calls on it. From then on it belongs to that user. When there are
//! as many connections as allowed, a new one takes the place of one without a holder. So clients that have not logged
//! in keep no user out, however many connections they open. One user has a share of all places, so that other users
//! find some.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::server::auth::access::share_per_user;

/// A connection. One that came later has a higher number.
pub(crate) type ConnectionNumber = u64;

/// The origin of a connection. One machine may have all addresses of a network of IPv6, which count as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionOrigin(IpAddr);

impl ConnectionOrigin {
    pub(crate) fn of(address: IpAddr) -> Self {
        /// The bits that tell one machine of a network of IPv6 from another.
        const OF_MACHINE: u32 = 64;
        Self(match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                let network = (address.to_bits() >> OF_MACHINE) << OF_MACHINE;
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            address => address,
        })
    }
}

/// The holder of a connection on which a known user has called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ConnectionHolder {
    /// This user.
    User(Arc<str>),
    /// The address of the client, on a server without logins.
    Origin(ConnectionOrigin),
}

impl fmt::Display for ConnectionHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => f.write_str(name),
            Self::Origin(ConnectionOrigin(address)) => write!(f, "{address}"),
        }
    }
}

/// The decision about a connection that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is served, under this number.
    Admitted(ConnectionNumber),
    /// It waits until this connection, which is to be closed, has ended.
    Replaces(ConnectionNumber),
    /// It waits until any connection has ended.
    Waits,
}

/// The error: the user has as many connections as allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShareExceeded {
    pub(crate) holder: ConnectionHolder,
    pub(crate) share: usize,
}

/// The connections that are open.
#[derive(Debug)]
pub(crate) struct ConnectionHolders {
    /// How many there may be.
    most: usize,
    next: ConnectionNumber,
    /// Connections on which no known user has called, by their origin; the oldest first.
    unknown: BTreeMap<ConnectionNumber, ConnectionOrigin>,
    known: HashMap<ConnectionNumber, ConnectionHolder>,
    /// How many each holder has.
    counts: HashMap<ConnectionHolder, usize>,
    /// Connections that are to be closed and have not ended.
    closing: BTreeSet<ConnectionNumber>,
}

impl ConnectionHolders {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            next: 0,
            unknown: BTreeMap::new(),
            known: HashMap::new(),
            counts: HashMap::new(),
            closing: BTreeSet::new(),
        }
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.unknown.len() + self.known.len() + self.closing.len()
    }

    /// A connection was accepted. One that waits asks again whenever a connection has ended.
    pub(crate) fn arrives(&mut self, from: ConnectionOrigin) -> Admission {
        if self.open() < self.most {
            let number = self.next;
            self.next += 1;
            self.unknown.insert(number, from);
            return Admission::Admitted(number);
        }
        if !self.closing.is_empty() {
            return Admission::Waits;
        }
        match connection_to_close(&self.unknown, from) {
            Some(number) => {
                self.unknown.remove(&number);
                self.closing.insert(number);
                Admission::Replaces(number)
            }
            None => Admission::Waits,
        }
    }

    /// A logged-in user calls on a connection; `None` on a server without logins. The first user to call holds it from
    /// now on.
    ///
    /// # Errors
    ///
    /// The user has as many connections as allowed: the connection stays without a holder.
    pub(crate) fn calls(
        &mut self,
        number: ConnectionNumber,
        user: Option<&Arc<str>>,
    ) -> Result<(), ShareExceeded> {
        let Some(from) = self.unknown.get(&number) else {
            return Ok(());
        };
        let holder = match user {
            Some(user) => ConnectionHolder::User(Arc::clone(user)),
            None => ConnectionHolder::Origin(*from),
        };
        let share = share_per_user(self.most);
        let count = self.counts.entry(holder.clone()).or_default();
        if *count >= share {
            return Err(ShareExceeded { holder, share });
        }
        *count += 1;
        self.unknown.remove(&number);
        self.known.insert(number, holder);
        Ok(())
    }

    /// Whether a connection has a holder.
    pub(crate) fn is_known(&self, number: ConnectionNumber) -> bool {
        self.known.contains_key(&number)
    }

    /// A connection has ended.
    pub(crate) fn ends(&mut self, number: ConnectionNumber) {
        self.unknown.remove(&number);
        self.closing.remove(&number);
        let Some(holder) = self.known.remove(&number) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&holder) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&holder);
            }
        }
    }
}

/// Which connection is closed for a new one that comes from `from`, of those on which no known user has called: of the origin
/// that has most of them, with the new one, the oldest. `None` if there is none.
fn connection_to_close(
    unknown: &BTreeMap<ConnectionNumber, ConnectionOrigin>,
    from: ConnectionOrigin,
) -> Option<ConnectionNumber> {
    // For each origin, the number of its connections and the oldest one.
    let mut origins: HashMap<ConnectionOrigin, (usize, ConnectionNumber)> = HashMap::new();
    for (number, origin) in unknown {
        origins.entry(*origin).or_insert((0, *number)).0 += 1;
    }
    if let Some((count, _)) = origins.get_mut(&from) {
        *count += 1;
    }
    let oldest_of_most = origins
        .into_values()
        .max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest)));
    oldest_of_most.map(|(_, oldest)| oldest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin(last: u8) -> ConnectionOrigin {
        ConnectionOrigin::of(IpAddr::from([10, 0, 0, last]))
    }

    fn enters(holders: &mut ConnectionHolders, from: ConnectionOrigin) -> ConnectionNumber {
        match holders.arrives(from) {
            Admission::Admitted(number) => number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses_of_one_machine_are_one_origin() {
        let of = |address: &str| ConnectionOrigin::of(address.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::2:3"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_ne!(of("::1"), of("::2"));
    }

    /// One address opens connections without end and says nothing. A user of that address and one of another come in and stay.
    #[test]
    fn silent_connections_are_replaced_by_new_ones() {
        let mut holders = ConnectionHolders::new(8);
        let (flood, other) = (origin(1), origin(2));
        let silent: Vec<ConnectionNumber> = (0..8).map(|_| enters(&mut holders, flood)).collect();
        let mut came = Vec::new();
        for (from, closed) in [(other, silent[0]), (flood, silent[1])] {
            assert_eq!(holders.arrives(from), Admission::Replaces(closed));
            // It counts until it has ended, and nothing else is closed meanwhile.
            assert_eq!(holders.arrives(from), Admission::Waits);
            assert_eq!(holders.open(), 8);
            holders.ends(closed);
            came.push(enters(&mut holders, from));
        }
        assert_eq!(holders.arrives(flood), Admission::Replaces(silent[2]));
        holders.ends(silent[2]);
        enters(&mut holders, flood);
        for (number, name) in came.iter().zip(["ann", "bob"]) {
            holders.calls(*number, Some(&name.into())).unwrap();
        }
        for _ in 0..20 {
            let Admission::Replaces(closed) = holders.arrives(flood) else {
                panic!("the flood goes on");
            };
            assert!(!came.contains(&closed));
            holders.ends(closed);
            enters(&mut holders, flood);
        }
        assert!(came.iter().all(|number| holders.is_known(*number)));
    }

    #[test]
    fn one_user_cannot_take_all_connections() {
        let mut holders = ConnectionHolders::new(8);
        let (ann, bob): (Arc<str>, Arc<str>) = ("ann".into(), "bob".into());
        let all: Vec<ConnectionNumber> = (0..8).map(|_| enters(&mut holders, origin(1))).collect();
        for number in &all[..6] {
            holders.calls(*number, Some(&ann)).unwrap();
        }
        // Calls of other users on the same connection, and later calls, change nothing.
        holders.calls(all[0], Some(&bob)).unwrap();
        holders.calls(all[0], Some(&ann)).unwrap();
        let full = holders.calls(all[6], Some(&ann)).unwrap_err();
        assert_eq!((full.holder.to_string(), full.share), ("ann".to_owned(), 6));
        // A connection that ann opens beyond the share gives way to bob, also at the same address.
        assert_eq!(holders.arrives(origin(1)), Admission::Replaces(all[6]));
        holders.ends(all[6]);
        let of_bob = enters(&mut holders, origin(1));
        holders.calls(of_bob, Some(&bob)).unwrap();
        // A connection that has ended makes room in the share.
        holders.ends(all[0]);
        let again = enters(&mut holders, origin(1));
        holders.calls(again, Some(&ann)).unwrap();
        // Users hold all: one more waits.
        holders.calls(all[7], Some(&bob)).unwrap();
        assert_eq!(holders.open(), 8);
        assert_eq!(holders.arrives(origin(3)), Admission::Waits);
    }

    #[test]
    fn without_logins_each_address_has_a_share() {
        let mut holders = ConnectionHolders::new(4);
        let all: Vec<ConnectionNumber> = (0..4).map(|_| enters(&mut holders, origin(1))).collect();
        for number in &all[..3] {
            holders.calls(*number, None).unwrap();
        }
        let full = holders.calls(all[3], None).unwrap_err();
        assert_eq!(full.holder.to_string(), "10.0.0.1");
        assert_eq!(holders.arrives(origin(2)), Admission::Replaces(all[3]));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Arrives(u8),
        Calls(usize, u8),
        Ends(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..4_u8).prop_map(Step::Arrives),
            3 => (any::<usize>(), 0..3_u8).prop_map(|(of, user)| Step::Calls(of, user)),
            1 => any::<usize>().prop_map(Step::Ends),
        ]
    }

    proptest! {
        /// Four properties: there are never more connections than allowed, no user has more than a share, a connection
        /// of a user is not closed, and while one user holds connections, another user can still get one.
        #[test]
        fn another_user_can_always_connect(
            most in 4..20_usize,
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let mut holders = ConnectionHolders::new(most);
            let mut open: Vec<ConnectionNumber> = Vec::new();
            let one = |open: &[ConnectionNumber], of: usize| (!open.is_empty()).then(|| open[of % open.len()]);
            for step in steps {
                match step {
                    Step::Arrives(from) => match holders.arrives(origin(from)) {
                        Admission::Admitted(number) => open.push(number),
                        Admission::Replaces(number) => {
                            prop_assert!(!holders.is_known(number));
                            holders.ends(number);
                            open.retain(|one| *one != number);
                            open.push(enters(&mut holders, origin(from)));
                        }
                        Admission::Waits => prop_assert_eq!(holders.known.len(), most),
                    },
                    Step::Calls(of, user) => {
                        let user: Arc<str> = user.to_string().into();
                        if let Some(number) = one(&open, of) {
                            let _ = holders.calls(number, Some(&user));
                        }
                    }
                    Step::Ends(of) => {
                        if let Some(number) = one(&open, of) {
                            holders.ends(number);
                            open.retain(|one| *one != number);
                        }
                    }
                }
                prop_assert_eq!(holders.open(), open.len());
                prop_assert!(open.len() <= most);
                let counted: usize = holders.counts.values().sum();
                prop_assert_eq!(counted, holders.known.len());
                for count in holders.counts.values() {
                    prop_assert!((1..=share_per_user(most)).contains(count));
                }
                if holders.counts.len() <= 1 {
                    prop_assert!(holders.known.len() < most);
                }
            }
        }
    }
}
