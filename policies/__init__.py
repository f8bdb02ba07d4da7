"""Our rules as a CrossGuard policy pack: `pulumi preview --policy-pack policies`."""
