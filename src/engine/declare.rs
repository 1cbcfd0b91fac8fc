//! Declares another host dead, in the thread of the caller.

use super::member::Member;
use super::procedure::Driver;
use crate::control::DeclareError;
use crate::disk::Lane;
use crate::error::Damage;
use crate::protocol::declare::{Declaration, Declared, Refusal};
use crate::types::Owner;

impl Member {
    pub(crate) fn declare_dead(&self, target: Owner) -> Result<Declared, DeclareError> {
        let known = self.hosts.with_observer(|observer| {
            Some((observer.record(target.host)?.good()?.clone(), observer.first_seen(target.host)?))
        });
        let declaration = Declaration::new(self.host(), target, self.terms.clone(), known);
        let (declared, failure) =
            self.driver(Lane::General).carry_out(declaration, &self.pulse).map_err(DeclareError::Lost)?;
        declared.map_err(|refusal| match (refusal, failure) {
            (Refusal::Storage, Some(error)) => error.into(),
            (Refusal::Unknown, source) => DeclareError::Unknown { target, source },
            (refusal, _) => self.explain_declaration(target, self.terms.geometry.delta_offset(target.host), refusal),
        })
    }

    /// Carries procedures out as long as this host is a member.
    pub(super) fn driver(&self, lane: Lane) -> Driver<'_> {
        Driver { io: &self.io, lane, geometry: self.terms.geometry, hosts: &self.hosts }
    }

    fn explain_declaration(&self, target: Owner, offset: u64, refusal: Refusal) -> DeclareError {
        let device = self.io.device();
        match refusal {
            Refusal::Generation(record) => {
                DeclareError::Generation { device, target, name: record.host_name, found: record.generation }
            }
            Refusal::Live(record) => DeclareError::Live { device, target, name: record.host_name },
            Refusal::Damaged(reason) => Damage { device, offset, what: "host record", reason }.into(),
            Refusal::Foreign(record) => {
                DeclareError::Foreign { device, target, found: record.owner_id, lockspace: record.lockspace }
            }
            Refusal::Storage => DeclareError::Slow { device, target },
            Refusal::Unknown => DeclareError::Unknown { target, source: None },
        }
    }
}
