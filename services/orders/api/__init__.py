"""gRPC servicers: message ⇄ arguments. They open the transaction and hold no SQL."""
