//! The file in which etcd keeps everything: a database of [bbolt](https://github.com/etcd-io/bbolt), written at once
//! from entries that are in order. Pure.
//!
//! It consists of pages. The first two tell where the root is, the third which pages are free: none. Then comes a tree
//! for each bucket, its leaves first, and in the end the page that lists the buckets.

/// The size of a page. bbolt reads files of any size of page; the metadata tells it.
const PAGE: usize = 4096;
/// What stands before the elements of a page, and the length of an element without its key and value.
const HEAD: usize = 16;
const ELEMENT: usize = 16;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// What a page has.
#[derive(Clone, Copy)]
enum Kind {
    Branch = 1,
    Leaf = 2,
    Meta = 4,
    FreeList = 16,
}

/// Says of an element of a leaf that its value is where a bucket is.
const IS_BUCKET: u32 = 1;

/// Entries under a name. Both the entries of a bucket and buckets must be in order of their keys, each key once.
pub(super) struct Bucket {
    pub(super) name: &'static str,
    pub(super) entries: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The bytes of a database with these buckets.
pub(super) fn database(buckets: &[Bucket]) -> Vec<u8> {
    let mut file = File { bytes: vec![0; 3 * PAGE] };
    let places = buckets.iter().map(|bucket| {
        let root = file.tree(0, &bucket.entries);
        (bucket.name.as_bytes().to_vec(), [root.to_le_bytes(), [0; 8]].concat())
    });
    let places: Vec<_> = places.collect();
    let root = file.tree(IS_BUCKET, &places);
    file.finish(root)
}

struct File {
    bytes: Vec<u8>,
}

/// A page that a branch points to: its first key, and its number.
type Child = (Vec<u8>, u64);

impl File {
    /// Writes the pages of a tree. Returns the number of its root.
    fn tree(&mut self, flags: u32, entries: &[(Vec<u8>, Vec<u8>)]) -> u64 {
        let size = |(key, value): &(Vec<u8>, Vec<u8>)| ELEMENT + key.len() + value.len();
        let mut level: Vec<Child> = Vec::new();
        for group in groups(entries, size) {
            let first = group.first().map(|(key, _)| key.clone()).unwrap_or_default();
            level.push((first, self.leaf(flags, group)));
        }
        while level.len() > 1 {
            let mut above = Vec::new();
            for group in groups(&level, |(key, _)| ELEMENT + key.len()) {
                above.push((group[0].0.clone(), self.branch(group)));
            }
            level = above;
        }
        level[0].1
    }

    fn leaf(&mut self, flags: u32, entries: &[(Vec<u8>, Vec<u8>)]) -> u64 {
        let (mut elements, mut data) = (Vec::new(), Vec::new());
        for (at, (key, value)) in entries.iter().enumerate() {
            // Where the key stands, counted from this element on.
            let position = (entries.len() - at) * ELEMENT + data.len();
            for number in [flags, position as u32, key.len() as u32, value.len() as u32] {
                elements.extend(number.to_le_bytes());
            }
            data.extend_from_slice(key);
            data.extend_from_slice(value);
        }
        self.page(Kind::Leaf, entries.len(), &[elements, data].concat())
    }

    fn branch(&mut self, children: &[Child]) -> u64 {
        let (mut elements, mut data) = (Vec::new(), Vec::new());
        for (at, (key, page)) in children.iter().enumerate() {
            let position = (children.len() - at) * ELEMENT + data.len();
            elements.extend((position as u32).to_le_bytes());
            elements.extend((key.len() as u32).to_le_bytes());
            elements.extend(page.to_le_bytes());
            data.extend_from_slice(key);
        }
        self.page(Kind::Branch, children.len(), &[elements, data].concat())
    }

    /// Appends a page, and as many more as its content needs. Returns its number.
    fn page(&mut self, kind: Kind, count: usize, content: &[u8]) -> u64 {
        let number = self.bytes.len() / PAGE;
        let more = (HEAD + content.len()).div_ceil(PAGE) - 1;
        self.bytes.extend(head(number, kind, count, more));
        self.bytes.extend_from_slice(content);
        self.bytes.resize((number + 1 + more) * PAGE, 0);
        number as u64
    }

    /// Writes the first pages, now that it is known where the root is.
    fn finish(mut self, root: u64) -> Vec<u8> {
        let pages = (self.bytes.len() / PAGE) as u64;
        // There are two of them so that one is whole while the other is written. The later transaction counts.
        for number in 0..2 {
            let mut meta = Vec::new();
            for number in [MAGIC, VERSION, PAGE as u32, 0] {
                meta.extend(number.to_le_bytes());
            }
            // The root and its sequence, the list of free pages, the number of pages, the transaction.
            for number in [root, 0, 2, pages, number as u64] {
                meta.extend(number.to_le_bytes());
            }
            meta.extend(fnv1a(&meta).to_le_bytes());
            let page = [head(number, Kind::Meta, 0, 0), meta].concat();
            self.bytes[number * PAGE..][..page.len()].copy_from_slice(&page);
        }
        self.bytes[2 * PAGE..][..HEAD].copy_from_slice(&head(2, Kind::FreeList, 0, 0));
        self.bytes
    }
}

/// What a page begins with: its number, what it has, of how many elements, and how many pages more belong to it.
fn head(number: usize, kind: Kind, count: usize, more: usize) -> Vec<u8> {
    let mut head = (number as u64).to_le_bytes().to_vec();
    head.extend((kind as u16).to_le_bytes());
    head.extend((count as u16).to_le_bytes());
    head.extend((more as u32).to_le_bytes());
    head
}

/// Splits what there is into pages: at least one, and none with a single element if it can be otherwise, because bbolt
/// expects a branch to have two.
fn groups<T>(elements: &[T], size: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut ends = Vec::new();
    let mut used = HEAD;
    for (at, element) in elements.iter().enumerate() {
        let size = size(element);
        if used > HEAD && used + size > PAGE {
            ends.push(at);
            used = HEAD;
        }
        used += size;
    }
    let last = ends.last().copied().unwrap_or(0);
    if elements.len() - last == 1 && last >= 3 && ends.iter().rev().nth(1).is_none_or(|end| last - end > 2) {
        ends.pop();
        ends.push(last - 1);
    }
    ends.push(elements.len());
    let starts = std::iter::once(0).chain(ends.clone());
    starts.zip(&ends).map(|(start, end)| &elements[start..*end]).collect()
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a tree as bbolt does. Notes which pages it has.
    fn read(file: &[u8], page: u64, seen: &mut Vec<u64>) -> Vec<(u32, Vec<u8>, Vec<u8>)> {
        let bytes = &file[page as usize * PAGE..];
        let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(u64_at(0), page);
        seen.extend(page..=page + u64::from(u32_at(12)));
        let mut all = Vec::new();
        for at in (0..usize::from(u16_at(10))).map(|at| HEAD + at * ELEMENT) {
            if u16_at(8) == Kind::Branch as u16 {
                assert!(u16_at(10) >= 2, "a branch with one child");
                let key = &bytes[at + u32_at(at) as usize..][..u32_at(at + 4) as usize];
                let below = read(file, u64_at(at + 8), seen);
                assert_eq!(below[0].1, key);
                all.extend(below);
            } else {
                let (key, value) = (u32_at(at + 8) as usize, u32_at(at + 12) as usize);
                let data = &bytes[at + u32_at(at + 4) as usize..];
                all.push((u32_at(at), data[..key].to_vec(), data[key..key + value].to_vec()));
            }
        }
        all
    }

    #[test]
    fn what_is_written_is_read_again_and_every_page_belongs_to_something() {
        for (count, length) in [(0, 0), (1, 1), (1, 10_000), (2, 4_000), (125, 16), (5_000, 30), (40_000, 1)]
        {
            let key = |number: u64| number.to_be_bytes().to_vec();
            let entries: Vec<_> = (0..count).map(|at| (key(at), vec![at as u8; length])).collect();
            let buckets = [
                Bucket { name: "empty", entries: Vec::new() },
                Bucket { name: "key", entries: entries.clone() },
            ];
            let file = database(&buckets);
            let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
            for meta in [0, 1] {
                let at = meta * PAGE + HEAD;
                assert_eq!(number(at + 40) as usize * PAGE, file.len());
                assert_eq!(number(at + 56), fnv1a(&file[at..at + 56]));
            }
            let mut seen = vec![0, 1, 2];
            let names = read(&file, number(HEAD + 16), &mut seen);
            assert_eq!(
                names.iter().map(|(_, name, _)| name.as_slice()).collect::<Vec<_>>(),
                [b"empty".as_slice(), b"key"]
            );
            let roots = names.iter().map(|(flags, _, place)| {
                assert_eq!((*flags, place.len()), (IS_BUCKET, 16));
                u64::from_le_bytes(place[..8].try_into().unwrap())
            });
            let roots: Vec<u64> = roots.collect();
            assert_eq!(read(&file, roots[0], &mut seen), []);
            let found = read(&file, roots[1], &mut seen).into_iter().map(|(_, key, value)| (key, value));
            assert_eq!(found.collect::<Vec<_>>(), entries);
            seen.sort_unstable();
            assert_eq!(seen, (0..(file.len() / PAGE) as u64).collect::<Vec<_>>());
        }
    }
}
