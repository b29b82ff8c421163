//! Debugging.
use super::world::{World, note, short};
use farside_codec::record::fragment::{FragmentHeader, checksum_table};
use farside_codec::record::segment::{SegmentFooter, SegmentHeader};
impl World {
    pub(crate) fn dump(&self, when: &str) {
        if std::env::var("DUMP").is_err() {
            return;
        }
        for (i, bay) in self.bays.bays.iter().enumerate() {
            let disk = bay.disk();
            let len = farside_io::disk::Disk::len_bytes(&disk);
            let live = disk.live(0..len);
            let base = (64u64 << 10) + self.plan.wal_bytes;
            for seg in 0..self.plan.segments {
                let s = (base + seg * u64::from(self.plan.segment_bytes)) as usize;
                let e = s + self.plan.segment_bytes as usize;
                if e > live.len() {
                    continue;
                }
                let h =
                    SegmentHeader::from_block(&live[s..s + 4096]).map(|h| format!("{:?} {}", h.usage, h.generation));
                let f = SegmentFooter::from_block(&live[e - 4096..e])
                    .map(|f| format!("{} entries gen {}", f.entries, f.generation));
                note!(self, "DUMP {when} dev {i} seg {seg}: {h:?} / {f:?}");
                let mut at = s + 4096;
                while at < e {
                    if let Ok(h) = FragmentHeader::read(&live[at..e]) {
                        let slot = h.layout().slot_bytes();
                        let good = at + slot <= e
                            && farside_codec::checksum::check_blocks(
                                &live[at + h.layout().header_bytes()..at + slot],
                                checksum_table(&live[at..at + h.layout().header_bytes()], 0),
                            )
                            .is_ok();
                        note!(
                            self,
                            "DUMP    block {} : {} frag {} gen {} durable {} good {good} blocks {}",
                            (at - s) / 4096,
                            short(&h.chunk),
                            h.fragment,
                            h.place.generation,
                            h.durable_block,
                            slot / 4096
                        );
                    }
                    at += 4096;
                }
            }
        }
    }
}
