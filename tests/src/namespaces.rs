//! Machines of their own, on this one: network namespaces on a bridge, between which packets can be dropped, one way too,
//! without a word to whoever sent them.
//!
//! Needs root, `ip` and `nft`, which is installed where it is missing. Everything is gone when it is dropped.

use std::process::{Command, Stdio};

/// Some machines that reach one another, and this one.
pub struct Machines {
    bridge: String,
    network: String,
    names: Vec<String>,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Machines {
    /// So many machines; `None` where this one can't have any.
    pub fn make(count: usize) -> Option<Self> {
        if !run("nft", &["--version"]) {
            run("apt-get", &["update", "-qq"]);
            run("apt-get", &["install", "-y", "-qq", "--no-install-recommends", "nftables"]);
        }
        let id = std::process::id();
        // Names of links have fifteen characters.
        let (bridge, network) = (format!("fsb{}", id % 1_000_000), format!("10.{}.{}", 20 + id / 250 % 200, id % 250));
        let names = (1..=count).map(|number| format!("farside-{id}-{number}")).collect();
        let machines = Self { bridge, network, names };
        machines.connect().then_some(machines)
    }

    fn connect(&self) -> bool {
        let bridge = self.bridge.as_str();
        let made = run("ip", &["link", "add", bridge, "type", "bridge"])
            && run("ip", &["address", "add", &format!("{}.254/24", self.network), "dev", bridge])
            && run("ip", &["link", "set", bridge, "up"]);
        made && (0..self.names.len()).all(|number| {
            let (name, link, address) = (&self.names[number], self.link(number), self.address(number));
            let inside = |arguments: &[&str]| run("ip", &[&["-n", name], arguments].concat());
            run("ip", &["netns", "add", name])
                && run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", name])
                && run("ip", &["link", "set", &link, "master", bridge, "up"])
                && inside(&["link", "set", "lo", "up"])
                && inside(&["address", "add", &format!("{address}/24"), "dev", "eth0"])
                && inside(&["link", "set", "eth0", "up"])
                && self.filter(number, &["add", "table", "inet", "cuts"])
                && self.filter(number, &["add", "chain inet cuts in { type filter hook input priority 0; }"])
        })
    }

    fn link(&self, number: usize) -> String {
        format!("{}-{}", self.bridge.replace("fsb", "fsv"), number + 1)
    }

    fn filter(&self, number: usize, arguments: &[&str]) -> bool {
        run("ip", &[&["netns", "exec", &self.names[number], "nft"], arguments].concat())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// The address of a machine, from 0 on.
    pub fn address(&self, number: usize) -> String {
        format!("{}.{}", self.network, number + 1)
    }

    /// What a command has to begin with that runs on a machine.
    pub fn prefix(&self, number: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.names[number]].map(str::to_owned).to_vec()
    }

    /// From now on a machine hears nothing of another one; `None`: of this one.
    pub fn deafen(&self, number: usize, to: Option<usize>) {
        let from = to.map_or_else(|| format!("{}.254", self.network), |to| self.address(to));
        assert!(self.filter(number, &["add", "rule", "inet", "cuts", "in", "ip", "saddr", &from, "drop"]), "a cut");
    }

    /// Everybody hears everybody again.
    pub fn heal(&self) {
        for number in 0..self.names.len() {
            assert!(self.filter(number, &["flush", "chain", "inet", "cuts", "in"]), "healed");
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for (number, name) in self.names.iter().enumerate() {
            run("ip", &["link", "del", &self.link(number)]);
            run("ip", &["netns", "del", name]);
        }
        run("ip", &["link", "del", &self.bridge]);
    }
}
