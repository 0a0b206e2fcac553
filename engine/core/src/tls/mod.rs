//! Who may talk to whom.
//!
//! Every job has its own certificate authority, and trusts nothing else: that is what keeps jobs apart. A leaf names its
//! holder in a SPIFFE-style URI (<https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>) and its role in a DNS
//! name, so that a client asks for a role, never for a host. TLS 1.3 only, no resumption (a resumed session would
//! outlive its certificate), and every new connection goes by the files as they are then.

mod files;
mod write;

pub use files::{ALPN_H2, ALPN_HTTP1, ClientTls, ServerTls, TlsError, TlsFiles};
pub use trireme_pki::{
    AuthorityError, Identity, IdentityError, JobAuthority, LEAF_VALIDITY, Leaf, PART_BYTES_MAX, Role, peer_identity,
};
pub use write::{WriteError, write_files};
