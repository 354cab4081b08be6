use serde_json::{Value, json};

use super::*;
use crate::testing::{hex_array, strings, text, unhex, vectors};

struct Example {
    case: Value,
    section: Section,
    subject: Key,
    period: Key,
    fresh: Fresh,
}

impl Example {
    fn load() -> Self {
        let case = vectors("seal.json");
        let disclosures = strings(&case, "disclosures");
        let disclosures = disclosures.iter().map(|d| Disclosure::decode(d).unwrap()).collect();
        Self {
            section: Section::new(disclosures).unwrap(),
            subject: Key::new(hex_array(&case, "subject_key_hex")),
            period: Key::new(hex_array(&case, "period_key_hex")),
            fresh: Fresh {
                dek: Key::new(hex_array(&case, "dek_hex")),
                content_nonce: hex_array(&case, "content_nonce_hex"),
                subject_nonce: hex_array(&case, "subject_nonce_hex"),
                period_nonce: hex_array(&case, "period_nonce_hex"),
            },
            case,
        }
    }

    fn id(&self) -> SectionId<'_> {
        SectionId {
            tenant: text(&self.case, "tenant"),
            record_id: text(&self.case, "record_id"),
            section: text(&self.case, "section"),
        }
    }

    fn keys(&self) -> KeyPair<'_> {
        KeyPair { subject: &self.subject, period: &self.period }
    }

    fn seal(&self) -> SealedSection {
        seal(&self.section, &self.id(), self.keys(), &self.fresh).unwrap()
    }
}

#[test]
fn sealing_gives_the_published_bytes() {
    let example = Example::load();
    let expected = unhex(text(&example.case, "sealed_hex"));
    assert_eq!(example.seal().to_bytes(), expected);
    let sealed = SealedSection::from_bytes(&expected).unwrap();
    assert_eq!(open(&sealed, &example.id(), example.keys()).unwrap(), example.section);
}

#[test]
fn destroying_either_key_closes_the_section() {
    let example = Example::load();
    let (sealed, id, other) = (example.seal(), example.id(), Key::new([9; 32]));
    let without_subject = KeyPair { subject: &other, ..example.keys() };
    let without_period = KeyPair { period: &other, ..example.keys() };
    let swapped = KeyPair { subject: &example.period, period: &example.subject };
    for keys in [without_subject, without_period, swapped] {
        assert!(matches!(open(&sealed, &id, keys), Err(SealError::Unopenable(_))));
    }
}

#[test]
fn sealed_bytes_open_for_no_other_record() {
    let example = Example::load();
    let (sealed, id) = (example.seal(), example.id());
    for other in [
        SectionId { tenant: "acm", ..id },
        SectionId { record_id: "0198f3b2-1111-7000-8000-000000000002", ..id },
        SectionId { section: "approver", ..id },
        SectionId { tenant: "", record_id: "acme", ..id },
    ] {
        assert!(open(&sealed, &other, example.keys()).is_err(), "{other:?}");
    }
}

#[test]
fn any_flipped_bit_closes_the_section() {
    let example = Example::load();
    let bytes = example.seal().to_bytes();
    for place in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[place] ^= 0x10;
        let opened = SealedSection::from_bytes(&altered)
            .and_then(|sealed| open(&sealed, &example.id(), example.keys()));
        assert!(opened.is_err(), "byte {place}");
    }
    for cut in 0..1 + NONCE_BYTES + WRAPPED_DEK_BYTES + TAG_BYTES {
        assert!(SealedSection::from_bytes(&bytes[..cut]).is_err(), "{cut} bytes");
    }
}

#[test]
fn a_wrapped_key_opens_with_its_names_only() {
    let (kek, key) = (Key::new([1; 32]), Key::new([2; 32]));
    let wrapped = wrap_key(&kek, &key, &["acme", "slot", "7"], &[3; 24]).unwrap();
    let opened = unwrap_key(&kek, &wrapped, &["acme", "slot", "7"]).unwrap();
    assert_eq!(opened.expose(), key.expose());
    assert!(unwrap_key(&kek, &wrapped, &["acme", "slot", "8"]).is_err());
    assert!(unwrap_key(&kek, &wrapped, &["acme", "slo", "t7"]).is_err());
    assert!(unwrap_key(&key, &wrapped, &["acme", "slot", "7"]).is_err());
}

#[test]
fn sections_are_bounded_and_whole() {
    let one = Disclosure::new(&[0; 16], "a", json!(1)).unwrap();
    assert!(Section::new(vec![one.clone(); SECTION_DISCLOSURES_MAX + 1]).is_err());
    let bytes = Section::new(vec![one.clone()]).unwrap().to_bytes();
    assert_eq!(Section::from_bytes(&bytes).unwrap().disclosures(), [one]);
    assert!(Section::from_bytes(&bytes[..bytes.len() - 1]).is_err());
    assert_eq!(Section::from_bytes(b"").unwrap(), Section::default());
    assert!(Section::from_bytes(b"~").is_err());
}
