/// Sentinel: no offset.
const ABSENT: u32 = 0xffffffffu;
