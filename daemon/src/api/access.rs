//! Who may do what.

use axum::http::Method;
use protocol::api::ApiError;

/// The process at the other end of a connection, as the kernel states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// Its user; `None` when the kernel did not say, and then nothing is allowed.
    pub(super) uid: Option<u32>,
}

/// The daemon's side of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    /// The daemon's user.
    pub(super) own_uid: u32,
    /// Whether users who can reach the socket through its group may read.
    pub(super) group_read: bool,
}

impl Access {
    /// Whether `caller` may use `method` at all.
    pub(super) fn check(&self, caller: Caller, method: &Method) -> Result<(), ApiError> {
        let reading = method == Method::GET || method == Method::HEAD;
        match caller.uid {
            Some(uid) if uid == self.own_uid || uid == 0 => Ok(()),
            Some(_) if self.group_read && reading => Ok(()),
            Some(uid) if self.group_read => Err(ApiError::denied(format!(
                "user {uid} may read from this node but not change it"
            ))
            .with_hint(self.hint())),
            Some(uid) => Err(ApiError::denied(format!("this node does not belong to user {uid}"))
                .with_hint(self.hint())),
            None => Err(ApiError::denied("the system does not say who is asking")),
        }
    }

    /// Whether a path that `caller` names may be opened: only by the very user as whom the
    /// daemon would open it, or the daemon would read files for people who cannot.
    pub(super) fn check_path(&self, caller: Caller) -> Result<(), ApiError> {
        if caller.uid == Some(self.own_uid) {
            return Ok(());
        }
        Err(ApiError::denied("a path is opened only for the user as whom the node runs")
            .with_hint(self.hint()))
    }

    fn hint(&self) -> String {
        format!("run the command as the user with id {}, as whom aynid runs", self.own_uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights() {
        let private = Access { own_uid: 7, group_read: false };
        let shared = Access { own_uid: 7, group_read: true };
        let check = |access: &Access, uid, method, expect: bool| {
            let caller = Caller { uid };
            assert_eq!(access.check(caller, &method).is_ok(), expect, "{uid:?} {method}");
        };
        for access in [&private, &shared] {
            check(access, Some(7), Method::POST, true);
            check(access, Some(0), Method::DELETE, true);
            check(access, Some(8), Method::POST, false);
            check(access, None, Method::GET, false);
        }
        check(&private, Some(8), Method::GET, false);
        check(&shared, Some(8), Method::GET, true);
        assert!(private.check_path(Caller { uid: Some(7) }).is_ok());
        assert!(private.check_path(Caller { uid: Some(0) }).is_err());
    }
}
